package client

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// idle is a worker whose calls wait until the test ends them.
func idle(t *testing.T, c WorkConfig) *worker {
	t.Helper()
	c.Manifest = api.Manifest{AgentID: "a", Capabilities: []api.Capability{{Action: "x", Target: "y"}}}
	if c.Perform == nil {
		c.Perform = func(ctx context.Context, _ *Task) api.Settlement {
			<-ctx.Done()
			return api.Settlement{Verdict: "complete"}
		}
	}
	w, err := newWorker(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stop(ErrStopped)
		w.calls.Wait()
	})
	return w
}

func lease(id string, epoch uint64) api.Lease { return api.Lease{TaskID: id, Epoch: epoch} }

// said takes what the worker has to say.
func said(w *worker) (list []*pb.SessionRequest) {
	for {
		m, _ := w.message(false)
		if m == nil {
			return list
		}
		list = append(list, m)
	}
}

func credit(list []*pb.SessionRequest) (n int64) {
	for _, m := range list {
		n += m.Credit
	}
	return n
}

// A task that is given again before its revocation came runs once, at the new
// epoch, and every task that was pushed gives one credit back.
func TestGivenAgain(t *testing.T) {
	var mu sync.Mutex
	ran := map[string][]uint64{}
	release := make(chan struct{})
	w := idle(t, WorkConfig{Concurrency: 1, Credit: 4, Perform: func(ctx context.Context, t *Task) api.Settlement {
		mu.Lock()
		ran[t.TaskID] = append(ran[t.TaskID], t.Epoch)
		mu.Unlock()
		select {
		case <-ctx.Done():
		case <-release:
		}
		return api.Settlement{Verdict: "complete"}
	}})
	w.hello()
	w.take([]api.Lease{lease("p", 1), lease("q", 1)}) // p is begun, q waits
	w.take([]api.Lease{lease("q", 2)})
	w.take([]api.Lease{lease("q", 2), lease("q", 1)}) // pushed twice, and late
	w.take([]api.Lease{lease("p", 2)})
	close(release)
	w.calls.Wait()
	if got := ran["q"]; len(got) != 1 || got[0] != 2 {
		t.Errorf("q ran at epochs %v", got)
	}
	if got := ran["p"]; len(got) == 0 || len(got) > 2 || got[len(got)-1] != 2 {
		t.Errorf("p ran at epochs %v", got)
	}
	if got := credit(said(w)); got != 6 {
		t.Errorf("%d credit for 6 tasks pushed", got)
	}
}

// What is to be settled later is sent when the node asked for it, and not
// before.
func TestSettledLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := idle(t, WorkConfig{Perform: func(context.Context, *Task) api.Settlement { return api.Settlement{Verdict: "complete"} }})
		w.hello()
		w.take([]api.Lease{lease("p", 1)})
		w.calls.Wait()
		later := map[uint32]*api.Error{0: {Status: 503, Code: "overloaded", Retry: api.RetryLater, After: 700}}
		began, last := time.Now(), time.Duration(0)
		for n := range 5 {
			list := said(w)
			for len(list) == 0 {
				synctest.Wait()
				<-w.wake
				list = said(w)
			}
			if len(list) != 1 || len(list[0].Settle) != 1 {
				t.Fatalf("round %d: %v", n, list)
			}
			at := time.Since(began)
			if n > 0 && (at-last < 700*time.Millisecond || at-last > 2*time.Second) {
				t.Errorf("sent again after %v", at-last)
			}
			last = at
			w.answered(list[0].SettleSeq, later)
		}
		// Another session does not wait: the node there may take it.
		w.hello()
		if list := said(w); len(list) != 1 || len(list[0].Settle) != 1 {
			t.Errorf("after hello: %v", list)
		}
	})
}

// A result or an error that is too large is its own task's matter.
func TestTooLarge(t *testing.T) {
	w := idle(t, WorkConfig{Concurrency: 4, Perform: func(_ context.Context, t *Task) api.Settlement {
		switch t.TaskID {
		case "error":
			return api.Settlement{Verdict: "fail", Error: strings.Repeat("ä", errorBytes)}
		case "small":
			return api.Settlement{Verdict: "complete", Result: json.RawMessage(`{}`)}
		case "cause":
			return api.Settlement{Verdict: "fail", Error: "no", Result: bytes.Repeat([]byte("1"), maxResultBytes)}
		}
		return api.Settlement{Verdict: "complete", Result: bytes.Repeat([]byte("1"), 7<<20)}
	}})
	w.hello()
	once := lease("once", 1)
	once.Guarantee = "exactly_once"
	w.take([]api.Lease{lease("large", 1), once, lease("error", 1), lease("small", 1), lease("cause", 1)})
	w.calls.Wait()
	refusal := &api.Error{Status: 413, Code: "message_too_large", Retry: api.RetryNo, Detail: "at most 16 MiB"}
	for range 3 {
		said(w)
		if !w.shrink(refusal) {
			t.Fatal("nothing to shrink")
		}
		w.hello() // the next session
	}
	got := map[string]*pb.Settlement{}
	for _, m := range said(w) {
		for _, s := range m.Settle {
			got[s.TaskId] = s
		}
	}
	if w.shrink(refusal) {
		t.Error("there is nothing large any more")
	}
	if s := got["large"]; s == nil || !s.Failed || !s.NoRetry || !strings.Contains(s.Error, "at most 16 MiB") || len(s.Result) > 0 {
		t.Errorf("large: %v", s)
	}
	if s := got["once"]; s == nil || s.Failed || string(s.Result) != resultTooLarge {
		t.Errorf("once: %v", s)
	}
	if s := got["cause"]; s == nil || !s.Failed || s.Error != "no" || len(s.Result) > 0 {
		t.Errorf("cause: %v", s)
	}
	if s := got["small"]; s == nil || s.Failed || string(s.Result) != "{}" {
		t.Errorf("small: %v", s)
	}
	if s := got["error"]; s == nil || len(s.Error) != errorBytes || !strings.HasSuffix(s.Error, "ä") {
		t.Errorf("error of %d bytes", len(s.GetError()))
	}
	// Many errors are no message over the limit either.
	list := make([]api.Settlement, api.MaxBatch)
	for i := range list {
		list[i] = api.Settlement{TaskID: "t", Verdict: "fail", Error: strings.Repeat("x", errorBytes)}
	}
	w.mu.settle = list
	for _, m := range said(w) {
		n := 0
		for _, s := range m.Settle {
			n += len(s.Error)
		}
		if n > settleBytes {
			t.Errorf("%d bytes of errors in one message", n)
		}
	}
}
