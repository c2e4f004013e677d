package client

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// A task that is given again before its revocation came is performed once, at
// its newest epoch, and every credit comes back.
func TestPerformersGivenAgain(t *testing.T) {
	t.Parallel()
	const credit = 6
	eachPerformer(t, 1, credit, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		s.push(told("a", 1, "hold", 0), told("q", 1, "do", 0)) // q waits for a
		s.push(told("q", 2, "do", 0))
		s.push(told("q", 1, "do", 0), told("q", 2, "do", 0)) // late, and twice
		s.push(told("a", 2, "do", 0))                        // a's call ends
		s.tell(&pb.SessionResponse{Revoked: []*pb.Revoked{{TaskId: "q", Epoch: 1, Reason: "stale_lease"}, {TaskId: "a", Epoch: 1, Reason: "stale_lease"}}})
		list := s.settled(2)
		s.push(told("z", 1, "do", 0))
		list = append(list, s.settled(1)...)
		want := []struct {
			id     string
			epoch  uint64
			result string
		}{{"q", 2, "1"}, {"a", 2, "2"}, {"z", 1, "3"}}
		for i, w := range want {
			if x := list[i]; x.TaskId != w.id || x.Epoch != w.epoch || x.Failed || string(x.Result) != w.result {
				t.Errorf("settlement %d: %v, want %v", i, x, w)
			}
		}
		if want := int64(credit + 7); s.credit != want { // seven were pushed
			t.Errorf("credit of %d granted, want %d", s.credit, want)
		}
		stop()
	})
}

// One that is given again to an agent that stops goes back, and the agent ends
// as soon as the earlier call has.
func TestPerformersGivenAgainStopping(t *testing.T) {
	t.Parallel()
	eachPerformer(t, 1, 2, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		s.push(told("a", 1, "hold", 0))
		s.until("started", func(m *pb.SessionRequest) bool { return len(m.Started) > 0 })
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		s.until("drain", func(m *pb.SessionRequest) bool { return m.Drain })
		s.push(told("a", 2, "do", 0))
		m := s.until("returned", func(m *pb.SessionRequest) bool { return len(m.Returned) > 0 })
		if m.Returned[0].TaskId != "a" || m.Returned[0].Epoch != 2 {
			t.Errorf("returned %v", m.Returned)
		}
		for m = range s.said {
			if len(m.Settle) > 0 {
				t.Errorf("settled %v", m.Settle)
			}
		}
		if !errors.Is(s.broke, io.EOF) {
			t.Errorf("the session was not ended, but broke: %v", s.broke)
		}
		<-stopped
	})
}

// What a node wants to be told later is told when it asked for that, each
// settlement by itself, and without a word about when ever more slowly.
func TestPerformersLater(t *testing.T) {
	t.Parallel()
	eachPerformer(t, 2, 2, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		s.push(told("soon", 1, "do", 0), told("later", 1, "do", 0))
		const asked = 700 * time.Millisecond
		sent := map[string]int{}
		var first, last time.Time // of "later"
		for sent["later"] < 3 || sent["soon"] < 7 {
			m := s.next()
			if m == nil {
				t.Fatal("the session ended")
			}
			if len(m.Settle) == 0 {
				continue
			}
			a := &pb.Settled{Seq: m.SettleSeq, Count: uint32(len(m.Settle))}
			for i, x := range m.Settle {
				e := &api.Error{Status: 503, Layer: 5, Code: "overloaded", Retry: api.RetryLater}
				if first.IsZero() {
					first = time.Now()
				}
				if x.TaskId == "later" {
					if n := time.Since(last); n < asked {
						t.Errorf("sent again after %v", n)
					}
					last, e.After = time.Now(), int(asked.Milliseconds())
				}
				if sent[x.TaskId]++; sent[x.TaskId] > 1000 {
					t.Fatalf("%s was sent %d times in %v", x.TaskId, sent[x.TaskId], time.Since(first))
				}
				a.Verdicts = append(a.Verdicts, &pb.SettleVerdict{Index: uint32(i), Problem: wire(e)})
			}
			s.tell(&pb.SessionResponse{Settled: a})
		}
		// Six pauses from 20 ms on, doubling, less half of each for jitter.
		if n := time.Since(first); n < (20+40+80+160+320+640)*time.Millisecond/2 {
			t.Errorf("%d times in %v", sent["soon"], n)
		}
		s.settled(2)
		stop()
	})
}

// What is too large is its own task's failure, or, done exactly once, no
// failure; the session goes on.
func TestPerformersTooLarge(t *testing.T) {
	t.Parallel()
	const tasks = 300
	eachPerformer(t, 1, 2*tasks, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		once := func(x *pb.Task) *pb.Task { x.Guarantee = "exactly_once"; return x }
		s.push(told("at", 1, "answer", maxResultBytes), told("over", 1, "answer", maxResultBytes+1), once(told("once", 1, "answer", maxResultBytes+1)))
		for i, x := range s.settled(3) {
			switch {
			case i == 0 && (x.Failed || len(x.Result) != maxResultBytes):
				t.Errorf("at the limit: failed %v, %d bytes, %s", x.Failed, len(x.Result), x.Error)
			case i == 1 && (!x.Failed || !x.NoRetry || len(x.Result) > 0 || !strings.Contains(x.Error, fmt.Sprint(maxResultBytes+1))):
				t.Errorf("over the limit: failed %v, %d bytes, %s", x.Failed, len(x.Result), x.Error)
			case i == 2 && (x.Failed || string(x.Result) != resultTooLarge):
				t.Errorf("over the limit, exactly once: failed %v, %d bytes, %s", x.Failed, len(x.Result), x.Error)
			}
		}
		var list []*pb.Task
		for i := range tasks { // 3 MiB of error texts
			list = append(list, told(fmt.Sprint("fail-", i), 1, "fail", 10<<10))
		}
		s.push(list...)
		for n := 0; n < tasks; {
			m, bytes := s.next(), 0
			if m == nil {
				t.Fatal("the session ended")
			}
			for _, x := range m.Settle {
				if bytes += len(x.Error); len(x.Error) > errorBytes || !x.Failed || !strings.HasSuffix(x.Error, "xend") || !utf8.ValidString(x.Error) {
					t.Fatalf("%d bytes of error: …%s", len(x.Error), x.Error[max(len(x.Error)-16, 0):])
				}
			}
			if bytes > settleBytes {
				t.Errorf("%d bytes of errors in a message", bytes)
			}
			if n += len(m.Settle); len(m.Settle) > 0 {
				s.tell(&pb.SessionResponse{Settled: &pb.Settled{Seq: m.SettleSeq}})
			}
		}
		stop()
	})
}

// A result that a node does not take is what fails, not what happened.
func TestPerformersRefusedResult(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status    int
		guarantee string
		want      string // the second settlement's result; else it is a failure
	}{{413, "exactly_once", resultTooLarge}, {422, "atp-3", resultRefused}, {413, "at_least_once", ""}, {422, "at_least_once", ""}} {
		t.Run(fmt.Sprint(tc.status, tc.guarantee), func(t *testing.T) {
			eachPerformer(t, 1, 1, func(t *testing.T, f *fakeNode, stop func()) {
				s := f.session()
				x := told("t", 1, "answer", 100)
				x.Guarantee = tc.guarantee
				s.push(x)
				refuse := wire(&api.Error{Status: tc.status, Layer: 2, Code: "refused", Retry: api.RetryNo, Detail: "not that"})
				settles := func(m *pb.SessionRequest) bool { return len(m.Settle) > 0 }
				m := s.until("settle", settles)
				s.tell(&pb.SessionResponse{Settled: &pb.Settled{Seq: m.SettleSeq, Verdicts: []*pb.SettleVerdict{{Problem: refuse}}}})
				m = s.until("settle", settles)
				if y := m.Settle[0]; string(y.Result) != tc.want || y.Failed != (tc.want == "") || y.Failed && (!y.NoRetry || !strings.Contains(y.Error, "not that")) {
					t.Errorf("then: %v", y)
				}
				s.tell(&pb.SessionResponse{Settled: &pb.Settled{Seq: m.SettleSeq, Verdicts: []*pb.SettleVerdict{{Problem: refuse}}}})
				s.push(told("z", 1, "do", 0)) // refused twice is over: not sent a third time
				if list := s.settled(1); list[0].TaskId != "z" {
					t.Errorf("then: %v", list)
				}
				stop()
			})
		})
	}
}

// A node with a smaller limit ends the session over a message: the result is
// cut, the agent goes on.
func TestPerformersSmallerLimit(t *testing.T) {
	t.Parallel()
	eachPerformer(t, 2, 2, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		once := told("once", 1, "answer", 2<<20)
		once.Guarantee = "exactly_once"
		s.push(once, told("t", 1, "answer", 1<<20))
		for n := range 2 {
			for seen := 0; seen < 2-n; {
				seen += len(s.until("settle", func(m *pb.SessionRequest) bool { return len(m.Settle) > 0 }).Settle)
			}
			s.ends <- refusal(&api.Error{Status: 413, Layer: 2, Code: "message_too_large", Retry: api.RetryNo, Detail: "at most 1 MiB"})
			s = f.session()
		}
		for _, x := range s.settled(2) {
			if (x.TaskId == "once") != (string(x.Result) == resultTooLarge) || (x.TaskId == "t") != x.Failed {
				t.Errorf("%v", x)
			}
		}
		stop()
	})
}

// However many tasks were started, one message says so of no more than a node
// takes.
func TestPerformersManyStarted(t *testing.T) {
	t.Parallel()
	const tasks = api.MaxBatch + 500
	eachPerformer(t, tasks, tasks, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		var list []*pb.Task
		var recall []*pb.Claim
		for i := range tasks {
			list = append(list, told(fmt.Sprint("t-", i), 1, "hold", 0))
			recall = append(recall, &pb.Claim{TaskId: list[i].TaskId, Epoch: 1})
		}
		s.push(list...)
		said := map[string]bool{}
		for recalled := false; len(said) < tasks || !recalled; {
			if len(said) == tasks { // each as it began; now all at once
				clear(said)
				recalled = true
				s.tell(&pb.SessionResponse{Recall: recall})
			}
			m := s.next()
			if m == nil {
				t.Fatal("the session ended")
			}
			if n := len(m.Started) + len(m.Progress); n > api.MaxBatch {
				t.Fatalf("%d claims in one message", n)
			}
			for _, c := range m.Started {
				said[c.TaskId] = true
			}
		}
		revoked := &pb.SessionResponse{}
		for _, c := range recall {
			revoked.Revoked = append(revoked.Revoked, &pb.Revoked{TaskId: c.TaskId, Epoch: 1, Reason: "cancelled"})
		}
		s.tell(revoked)
		stop()
	})
}

// An agent that is told to stop ends, though no node answers it any more.
func TestPerformersNobodyThere(t *testing.T) {
	t.Parallel()
	var stops sync.WaitGroup // at once: it takes their drain and ten seconds
	for _, p := range performers {
		if p.name == "typescript" && missing() != nil {
			t.Logf("the TypeScript worker was not run: %v", missing())
			continue
		}
		f := newFakeNode(t)
		stop := p.start(t, f.url, 1, 2)
		s := f.session()
		s.push(told("held", 1, "hold", 0), told("waits", 1, "do", 0))
		s.until("started", func(m *pb.SessionRequest) bool { return len(m.Started) > 0 })
		f.vanish()
		stops.Go(stop)
	}
	stops.Wait()
}

// No text breaks the stream.
func TestPerformersOddError(t *testing.T) {
	t.Parallel()
	eachPerformer(t, 1, 2, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		s.push(told("odd", 1, "odd", 0), told("z", 1, "do", 0))
		list := s.settled(2)
		if x := list[0]; !x.Failed || !strings.Contains(x.Error, "odd") {
			t.Errorf("%v", x)
		}
		stop()
	})
}

// Progress over its limit is dropped, and neither the task nor the agent fails.
func TestPerformersProgress(t *testing.T) {
	t.Parallel()
	eachPerformer(t, 1, 2, func(t *testing.T, f *fakeNode, stop func()) {
		s := f.session()
		s.push(told("over", 1, "report", api.MaxProgressBytes+1), told("at", 1, "report", api.MaxProgressBytes))
		ended := 0
		reported := map[string]int{}
		for ended < 2 || len(reported) == 0 {
			m := s.next()
			if m == nil {
				t.Fatal("the session ended")
			}
			for _, p := range m.Progress {
				reported[p.TaskId] = len(p.Progress)
			}
			for _, x := range m.Settle {
				if ended++; x.Failed {
					t.Errorf("%v", x)
				}
			}
			if len(m.Settle) > 0 {
				s.tell(&pb.SessionResponse{Settled: &pb.Settled{Seq: m.SettleSeq}})
			}
		}
		if len(reported) != 1 || reported["at"] != api.MaxProgressBytes {
			t.Errorf("reported %v", reported)
		}
		stop()
	})
}
