package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// A probe under way when memberlist is shut down waits for its answer first.
func TestMain(m *testing.M) {
	const probe = "github.com/hashicorp/memberlist.(*Memberlist).probeNode"
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(probe), goleak.IgnoreAnyFunction(probe+".func1"),
		goleak.IgnoreAnyFunction(probe+".func2"), goleak.IgnoreAnyFunction(probe+".func3"))
}

// voice is a running instance and the signal that its view changed.
type voice struct {
	*Gossip
	changed chan struct{}
}

func start(t *testing.T, name string, edit func(*Config)) *voice {
	t.Helper()
	v := &voice{changed: make(chan struct{}, 1)}
	cfg := Config{Cluster: "test", NodeID: name, BindAddr: "127.0.0.1:0", Meta: Meta{RaftID: 1, PeerAddr: name + ":7701", APIAddr: name + ":7700"},
		Logger: slog.New(slog.DiscardHandler), RejoinMax: 200 * time.Millisecond, OnChange: func() { poke(v.changed) }}
	if edit != nil {
		edit(&cfg)
	}
	g, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	v.Gossip = g
	t.Cleanup(func() { _ = g.Close() })
	return v
}

func seeds(addrs ...string) func(*Config) { return func(c *Config) { c.Seeds = addrs } }

// sees waits until v believes exactly these alive.
func (v *voice) sees(t *testing.T, names ...string) {
	t.Helper()
	v.until(t, fmt.Sprint("sees ", names), func(ms []Member) bool {
		return slices.EqualFunc(ms, names, func(m Member, n string) bool { return m.NodeID == n })
	})
}

func (v *voice) until(t *testing.T, what string, cond func([]Member) bool) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for !cond(v.Members()) {
		select {
		case <-v.changed:
		case <-timeout:
			t.Fatalf("never: %s %s; has %+v", v.cfg.NodeID, what, v.Members())
		}
	}
}

func TestNodesFindEachOtherAndTheirMeta(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", seeds(a.Addr()))
	c := start(t, "c", seeds(b.Addr()))
	d := start(t, "d", seeds("localhost:1", a.Addr(), b.Addr()))
	for _, v := range []*voice{a, b, c, d} {
		v.sees(t, "a", "b", "c", "d")
		if m := v.Members()[1]; m.Addr != b.Addr() || m.Meta.PeerAddr != "b:7701" || m.Meta.APIAddr != "b:7700" || m.Meta.RaftID != 1 {
			t.Fatalf("%+v", m)
		}
	}
	formed := Meta{RaftID: 1, ClusterID: [16]byte{5}, PeerAddr: "b:7701", APIAddr: "b:7700", Version: "1.0", Gateway: true}
	if err := b.SetMeta(formed); err != nil {
		t.Fatal(err)
	}
	if b.Members()[1].Meta != formed {
		t.Error("a node does not see its own meta at once")
	}
	for _, v := range []*voice{a, c, d} {
		v.until(t, "hears the new meta", func(ms []Member) bool { return len(ms) == 4 && ms[1].Meta == formed })
	}
	if err := c.Leave(time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*voice{a, b, d} {
		v.sees(t, "a", "b", "d")
	}
	if err := c.Leave(time.Second); err != nil { // after Close: nothing
		t.Fatal(err)
	}
}

// A seed that starts later is found, and one that died and came back at another
// address under its old name.
func TestSeedsAreTriedAgain(t *testing.T) {
	spare := start(t, "spare", nil)
	addr := spare.Addr()
	_ = spare.Close()
	var mu sync.Mutex
	var known []string
	b := start(t, "b", func(c *Config) {
		c.Seeds = []string{addr}
		c.Known = func() []string { mu.Lock(); defer mu.Unlock(); return known }
	})
	a := start(t, "a", func(c *Config) { c.BindAddr = addr })
	b.sees(t, "a", "b")
	_ = a.Close() // without a word
	b.sees(t, "b")
	a = start(t, "a", nil)
	mu.Lock()
	known = []string{a.Addr()}
	mu.Unlock()
	b.Rejoin()
	b.until(t, "sees a at its new address", func(ms []Member) bool { return len(ms) == 2 && ms[0].Addr == a.Addr() })
	a.sees(t, "a", "b")
}

func TestNodeIDClaimedTwice(t *testing.T) {
	conflicts := make(chan conflict, 100)
	note := func(c *Config) {
		c.OnConflict = func(nodeID, addr string) {
			select {
			case conflicts <- conflict{nodeID, addr}:
			default:
			}
		}
	}
	a := start(t, "a", note)
	b := start(t, "b", seeds(a.Addr()))
	b.sees(t, "a", "b")
	a.sees(t, "a", "b") // or the imposter may be the first b that a hears of
	imposter := start(t, "b", seeds(a.Addr()))
	select {
	case c := <-conflicts:
		if c != (conflict{"b", imposter.Addr()}) {
			t.Fatalf("%+v, want b at %s", c, imposter.Addr())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	if m := a.Members()[1]; m.Addr != b.Addr() {
		t.Fatalf("the imposter took over: %+v", m)
	}
}

// Another label, or another key, is told apart on both sides.
func TestClustersDoNotMix(t *testing.T) {
	key := bytes.Repeat([]byte("k"), 32)
	var log strings.Builder
	var mu sync.Mutex
	a := start(t, "a", func(c *Config) {
		c.Key = key
		c.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			log.Write(p)
		}), nil))
	})
	strangers := map[string]func(*Config){
		"other-name": func(c *Config) { c.Cluster, c.Key = "other", key },
		"other-key":  func(c *Config) { c.Key = bytes.Repeat([]byte("x"), 32) },
		"no-key":     func(*Config) {},
	}
	for name, edit := range strangers {
		refused := make(chan string, 100)
		v := start(t, name, func(c *Config) {
			c.Seeds = []string{a.Addr()}
			c.OnRefused = func(seed string, _ error) { refused <- seed }
			edit(c)
		})
		select {
		case seed := <-refused:
			if seed != a.Addr() {
				t.Fatal(seed)
			}
		case <-time.After(10 * time.Second):
			t.Fatal(name, "was not refused")
		}
		v.sees(t, name)
		_ = v.Close()
	}
	friend := start(t, "friend", func(c *Config) { c.Seeds, c.Key = []string{a.Addr()}, key })
	friend.sees(t, "a", "friend")
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(log.String(), `unacceptable label`) || !strings.Contains(log.String(), "layer=L3") {
		t.Errorf("log:\n%s", log.String())
	}
}

// Clusters of one name with IDs of their own stay apart, whichever way they
// hear of each other; each is told of the other's nodes.
func TestClustersOfOneNameDoNotMix(t *testing.T) {
	foreign := make(chan Member, 100)
	of := func(id byte, seed ...string) func(*Config) {
		return func(c *Config) {
			c.Meta.ClusterID, c.Seeds = [16]byte{id}, seed
			c.OnForeign = func(m Member) {
				select {
				case foreign <- m:
				default:
				}
			}
		}
	}
	a := start(t, "a", of(1))
	b := start(t, "b", of(1, a.Addr()))
	a.sees(t, "a", "b")
	b.sees(t, "a", "b")
	other := start(t, "a", of(2))                        // of the same node ID, too
	twin := start(t, "b", of(2, other.Addr(), a.Addr())) // as after an address changed hands
	other.sees(t, "a", "b")
	for range 4 {
		select {
		case m := <-foreign:
			if m.Meta.ClusterID == ([16]byte{}) || m.Addr == "" {
				t.Fatalf("%+v", m)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody noticed")
		}
	}
	joins := start(t, "c", seeds(b.Addr(), twin.Addr())) // belongs to neither yet: it may hear of both
	joins.until(t, "hears of a cluster", func(ms []Member) bool { return len(ms) == 3 })
	for _, v := range []*voice{a, b, other, twin} {
		for _, m := range v.Members() {
			if m.Meta.ClusterID != v.cfg.Meta.ClusterID && m.Meta.ClusterID != ([16]byte{}) {
				t.Errorf("%s of %d sees %+v", v.cfg.NodeID, v.cfg.Meta.ClusterID[0], m)
			}
		}
		v.until(t, "has its own", func(ms []Member) bool { return len(ms) >= 2 })
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := Open(Config{Cluster: strings.Repeat("c", 256), BindAddr: "nonsense", AdvertiseAddr: "x:y:z"})
	for _, want := range []string{"cluster name of 256", "no node ID", "bind address", "advertised address"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
	a := start(t, "a", nil)
	if _, err := Open(Config{Cluster: "c", NodeID: "b", BindAddr: a.Addr(), Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("bound twice")
	}
	if err := a.SetMeta(Meta{PeerAddr: strings.Repeat("p", 256)}); err == nil {
		t.Error("an oversized meta was accepted")
	}
	if a.Members()[0].Meta.PeerAddr != "a:7701" {
		t.Error("the old meta is gone")
	}
}

func TestMetaCodec(t *testing.T) {
	full := Meta{RaftID: 1 << 60, ClusterID: [16]byte{1, 2}, Gateway: true, PeerAddr: strings.Repeat("p", 255), APIAddr: strings.Repeat("a", 200), Version: "v"}
	full.Version = strings.Repeat("v", MaxMetaBytes-metaFixedBytes-3-255-200) // to the byte
	for _, m := range []Meta{{}, full} {
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeMeta(b); err != nil || got != m {
			t.Fatalf("%+v, %v", got, err)
		}
		for n := range len(b) {
			if _, err := decodeMeta(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes accepted", n, len(b))
			}
		}
		if _, err := decodeMeta(append(b, 0)); err == nil {
			t.Fatal("trailing byte accepted")
		}
		b[0] = 2
		if _, err := decodeMeta(b); err == nil {
			t.Fatal("unknown version accepted")
		}
	}
	full.Version += "v"
	if _, err := full.encode(); err == nil {
		t.Fatal("one byte over the limit accepted")
	}
}

func FuzzMeta(f *testing.F) {
	b, _ := Meta{RaftID: 3, PeerAddr: "p", APIAddr: "a"}.encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("% x became % x, %v", b, again, err)
		}
	})
}

func TestLogsAreLevelledAndLimited(t *testing.T) {
	var out strings.Builder
	l := &logs{to: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for range 3 {
		for _, line := range []string{"[ERR] memberlist: Failed to decode something long enough: x\n", "[WARN] memberlist: Refuting a suspect message\n", "[INFO] plain\n", "no level\n"} {
			if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	for want, times := range map[string]int{"level=WARN": 1, "level=DEBUG": 9, `msg="gossip: plain"`: 3, `msg="gossip: no level"`: 3, `msg="gossip: Refuting a suspect message" layer=L3`: 3} {
		if n := strings.Count(out.String(), want); n != times {
			t.Errorf("%s: %d times, want %d\n%s", want, n, times, out.String())
		}
	}
}
