//go:build !race

// The race detector allocates, too.

package stream

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// What a task may allocate on its way through a session (pushed, received,
// settled, acknowledged) and a submit stream (declared, acknowledged), in
// batches, both ends of the connection together: measured 10.4 and 8.2.
const (
	sessionObjects = 12
	submitObjects  = 10
)

// stocked is a fake whose tasks and verdicts are there already: what is counted
// is the stream's.
type stocked struct {
	*fake
	leases   []api.Lease
	settled  []api.SettleVerdict
	verdicts []api.SubmitVerdict
}

func newStocked() *stocked {
	s := &stocked{fake: newFake(), leases: make([]api.Lease, api.MaxBatch), settled: make([]api.SettleVerdict, api.MaxBatch), verdicts: make([]api.SubmitVerdict, api.MaxBatch)}
	for i := range s.leases {
		id := fmt.Sprint("t", i)
		s.leases[i] = api.Lease{TaskID: id, Epoch: 1, Action: "do", Target: "it", Input: []byte(`"` + strings.Repeat("x", 126) + `"`)}
		s.settled[i] = api.SettleVerdict{TaskID: id, State: "completed"}
		s.verdicts[i] = api.SubmitVerdict{TaskID: id, State: "ready"}
	}
	return s
}

func (s *stocked) Submit(_ context.Context, specs []api.TaskSpec, _ string) ([]api.SubmitVerdict, error) {
	return s.verdicts[:len(specs)], nil
}

func (s *stocked) OpenWork(ctx context.Context, h api.WorkHello) (Worker, error) {
	w, err := s.fake.OpenWork(ctx, h)
	if err != nil {
		return nil, err
	}
	return &stockedWorker{w.(*fakeWorker), s}, nil
}

type stockedWorker struct {
	*fakeWorker
	s *stocked
}

func (w *stockedWorker) Take(_ context.Context, limit int) ([]api.Lease, error) {
	return w.s.leases[:min(limit, len(w.s.leases))], nil
}

func (w *stockedWorker) Settle(_ context.Context, list []api.Settlement) ([]api.SettleVerdict, error) {
	return w.s.settled[:len(list)], nil
}

// objects counts what do allocates a task, the least of three attempts.
func objects(t *testing.T, what string, most float64, do func(tasks int)) {
	t.Helper()
	do(2048) // what is made once
	const count = 20_480
	var each float64
	for range 3 { // a hiccup of the machine makes short batches
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do(count)
		runtime.ReadMemStats(&after)
		each = float64(after.Mallocs-before.Mallocs) / count
		t.Logf("%s: %.1f objects, %.0f bytes a task", what, each, float64(after.TotalAlloc-before.TotalAlloc)/count)
		if each <= most {
			return
		}
	}
	t.Errorf("%s allocates %.1f objects a task, want at most %.0f", what, each, most)
}

func TestSessionAllocations(t *testing.T) {
	st := open(t, dial(t, serve(t, newStocked(), Config{})), hello("a", 0))
	receive(t, st)
	const batch = 256
	objects(t, "a session", sessionObjects, func(tasks int) {
		for ; tasks > 0; tasks -= batch {
			if err := st.Send(&pb.SessionRequest{Credit: batch}); err != nil {
				t.Fatal(err)
			}
			m := &pb.SessionRequest{SettleSeq: 1}
			for len(m.Settle) < batch {
				for _, x := range receive(t, st).Tasks {
					m.Settle = append(m.Settle, &pb.Settlement{TaskId: x.TaskId, Epoch: x.Epoch, Result: []byte(`"done"`)})
				}
			}
			if err := st.Send(m); err != nil {
				t.Fatal(err)
			}
			if a := receive(t, st).Settled; a.GetCount() != batch || len(a.Verdicts) != 0 {
				t.Fatalf("%v", a)
			}
		}
	})
}

func TestSubmitAllocations(t *testing.T) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	defer cancel()
	st := dial(t, serve(t, newStocked(), Config{})).Submit(ctx)
	defer func() { _ = st.CloseRequest() }()
	const batch = 256
	specs := make([]*pb.TaskSpec, batch)
	for i := range specs {
		specs[i] = &pb.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint("k", i), Input: []byte(`"` + strings.Repeat("x", 126) + `"`)}
	}
	objects(t, "a submit stream", submitObjects, func(tasks int) {
		for ; tasks > 0; tasks -= batch {
			if err := st.Send(&pb.SubmitRequest{Seq: 1, Tasks: specs}); err != nil {
				t.Fatal(err)
			}
			if m, err := st.Receive(); err != nil || len(m.Verdicts) != batch {
				t.Fatalf("%v, %d verdicts", err, len(m.GetVerdicts()))
			}
		}
	})
}
