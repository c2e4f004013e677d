# `make demo` and `make test` need Go and make, nothing else; `make race` also
# wants a C compiler for the race detector.

GO          ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
LIMIT       ?= 0
ARGS        ?=

export CGO_ENABLED = 0

# A checkout that git refuses to look into (another owner) still builds.
VCS     = $(shell git rev-parse HEAD >/dev/null 2>&1 || echo -buildvcs=false)
BUILD   = $(GO) build $(VCS) -ldflags '-s -w'
SOURCES = $(shell find . -name '*.go' -not -path './.git/*') go.mod go.sum

.PHONY: all build release test race lint tidy demo bench bench-peers vet-peers check-peers chaos sim fuzz clean

all: build

build: bin/quorate

bin/quorate: $(SOURCES)
	@mkdir -p bin
	$(BUILD) -o $@ ./cmd/quorate

# One static, stripped binary for each platform that is served, the same
# wherever it is built.
release:
	@mkdir -p dist
	GOOS=linux GOARCH=amd64 $(BUILD) -trimpath -o dist/quorate-linux-amd64 ./cmd/quorate
	GOOS=linux GOARCH=arm64 $(BUILD) -trimpath -o dist/quorate-linux-arm64 ./cmd/quorate
	@ls -l dist

# Tests of whole clusters wait more than they compute.
test:
	$(GO) test -timeout 10m -parallel 4 ./...

# The packages whose correctness hangs on concurrency. The end-to-end tests run
# the nodes as processes, where the detector of the test would see nothing.
race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./ledger/... ./raftstore/... ./sched/... ./gossip/... ./node/...

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' | grep -v /testdata/)); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The shape of the source: import DAG, purity of the ledger, sizes, words.
tidy:
	$(GO) test -count=1 ./chaos/tidy/...

# make demo LIMIT=20 works through 20 packages; 0 is the default of about a minute.
demo: build
	bin/quorate chaos demo --limit $(LIMIT) $(ARGS)

bench: build
	bin/quorate bench lifecycle $(ARGS)

# Quorate and others in turn, three times: one table with ratios, or JSON. The
# others are in a module of their own, which this builds (some minutes at first).
# bin/bench-peers -compare OLD.json NEW.json tells change from noise.
# WORKLOAD: lifecycle, embedded (load and leader in one process), raftstore, sched.
# DURATION is what counts of each metric, each round: with 30s, sustained load.
# A peer whose program is not installed (redis-server) is left out, and named.
#   make bench-peers WORKLOAD=raftstore PEERS=dragonboat,etcd JSON=1 DURATION=30s
WORKLOAD ?= lifecycle
PEERS    ?=
JSON     ?=
DURATION ?= 10s
bench-peers: build
	@cd bench/peers && $(GO) build -mod=mod $(VCS) -o ../../bin/bench-peers .
	@bin/bench-peers -workload '$(WORKLOAD)' -peers '$(PEERS)' -duration '$(DURATION)' $(if $(JSON),-json) $(ARGS)

# That module compiles against this one; about a minute where nothing that it
# depends on is built yet. check-peers runs its tests as well.
vet-peers:
	cd bench/peers && $(GO) vet -mod=mod ./...

check-peers: vet-peers
	cd bench/peers && $(GO) test -mod=mod ./...

chaos: build
	bin/quorate chaos run $(ARGS)

# Thousands of simulated clusters: make sim SEEDS=10000 SEED=1
SEEDS ?= 2000
SEED  ?= 1
sim: build
	bin/quorate chaos sim --seeds $(SEEDS) --seed $(SEED)

# Every fuzz target for FUZZTIME each (inputs, or a duration such as 5m); the
# seeds of all run in `make test`.
FUZZTIME ?= 50000x
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

clean:
	rm -rf bin dist
