package web

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// What 100,000 lines may add to the heap, in and out.
const (
	manyLines    = 100_000
	heapMayGrow  = 24 << 20
	payloadBytes = 512
)

// heap is what is reachable now.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A bulk submit of 100,000 lines (57 MB), and an export as long, need no more
// memory in the middle than at the beginning.
func TestConstantMemory(t *testing.T) {
	f := &fake{}
	most, calls := int64(0), 0
	before := heap()
	measure := func() {
		if calls++; calls%64 == 0 {
			most = max(most, heap()-before)
		}
	}
	f.submit = func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
		measure()
		f.mu.specs, f.mu.by = f.mu.specs[:0], f.mu.by[:0]
		out := make([]api.SubmitVerdict, len(specs))
		for i := range out {
			out[i].TaskID = "t0001abcdefghijklmnopqrstuv"
		}
		return out, nil
	}
	s := serve(t, f, Config{})
	in, out := io.Pipe()
	go func() {
		pad := strings.Repeat("x", payloadBytes)
		w := bufio.NewWriter(out)
		for i := range manyLines {
			fmt.Fprintf(w, `{"action":"vet","target":"go","idempotency_key":"%d","input":"%s"}`+"\n", i, pad)
		}
		out.CloseWithError(w.Flush())
	}()
	resp, err := http.Post(s.URL+"/v1/tasks", "application/x-ndjson", in)
	if err != nil {
		t.Fatal(err)
	}
	if n := countLines(t, resp.Body); n != manyLines {
		t.Errorf("%d verdicts", n)
	}
	t.Logf("submit of %d lines: %d calls, at most %d KiB more on the heap", manyLines, calls, most>>10)
	if most > heapMayGrow || calls < manyLines/ndjsonChunk {
		t.Errorf("%d calls; %d bytes more on the heap, at most %d", calls, most, heapMayGrow)
	}
	most = 0
	f.export = func(fn func(api.Record) error) error {
		for i := range manyLines {
			if err := fn(api.Record{Seq: uint64(i + 1), TaskID: "t0001abcdefghijklmnopqrstuv", Verb: "submit", AgentID: strings.Repeat("a", payloadBytes)}); err != nil {
				return err
			}
			if i%ndjsonChunk == 0 {
				measure()
			}
		}
		return nil
	}
	if resp, err = http.Get(s.URL + "/v1/audit/export?verb=submit"); err != nil {
		t.Fatal(err)
	}
	if n := countLines(t, resp.Body); n != manyLines {
		t.Errorf("%d records", n)
	}
	t.Logf("export of %d lines: at most %d KiB more on the heap", manyLines, most>>10)
	if most > heapMayGrow {
		t.Errorf("%d bytes more on the heap, at most %d", most, heapMayGrow)
	}
}

func countLines(t *testing.T, body io.ReadCloser) (n int) {
	t.Helper()
	defer body.Close()
	b := make([]byte, 64<<10)
	for {
		k, err := body.Read(b)
		n += bytes.Count(b[:k], []byte("\n"))
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Long lines make short chunks.
func TestChunkBytes(t *testing.T) {
	one := `{"action":"vet","target":"go","input":"` + strings.Repeat("x", 1<<20) + `"}` + "\n"
	in := bufio.NewScanner(strings.NewReader(strings.Repeat(one, 9)))
	in.Buffer(nil, 2<<20)
	for _, want := range []int{4, 4, 1} {
		c, more := readChunk(in, 2<<20)
		if len(c.specs) != want || more != (want == 4) {
			t.Errorf("%d lines, more is %v; want %d", len(c.specs), more, want)
		}
	}
}
