package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// TestSentOnce: when a stream breaks, tasks with keys wait for the next one, in front; tasks without fail, their outcome
// unknown; a caller who has left is not served.
func TestSentOnce(t *testing.T) {
	s := &Submitter{}
	keyed := &submission{done: make(chan struct{})}
	once := &submission{once: true, done: make(chan struct{})}
	left := &submission{given: true, done: make(chan struct{})}
	waiting := &submission{done: make(chan struct{})}
	s.mu.flight = map[uint64][]*submission{7: {keyed, once, left}}
	s.mu.queue = []*submission{waiting}
	s.requeue(nil)
	if len(s.mu.flight) != 0 || len(s.mu.queue) != 2 || s.mu.queue[0] != keyed || s.mu.queue[1] != waiting {
		t.Errorf("queue %v, on their way %v", s.mu.queue, s.mu.flight)
	}
	<-once.done
	e := (*api.Error)(nil)
	if !errors.As(once.err, &e) || e.Code != "outcome_unknown" || e.Retry != api.RetryNo {
		t.Errorf("sent once: %v", once.err)
	}
}

// TestKeys: all tasks get a key, but those of a batch that is best_effort as a whole and has none.
func TestKeys(t *testing.T) {
	for _, tc := range []struct {
		name  string
		specs []api.TaskSpec
		keys  []bool
	}{
		{"default", []api.TaskSpec{{}, {Guarantee: "exactly_once"}}, []bool{true, true}},
		{"best effort", []api.TaskSpec{{Guarantee: "best_effort"}, {Guarantee: "atp-1"}}, []bool{false, false}},
		{"mixed", []api.TaskSpec{{Guarantee: "best_effort"}, {}}, []bool{true, true}},
		{"one with a key", []api.TaskSpec{{Guarantee: "best_effort", IdempotencyKey: "k"}, {Guarantee: "atp-1"}}, []bool{true, true}},
	} {
		if once := giveKeys(tc.specs); once == tc.keys[0] {
			t.Errorf("%s: sent once %v", tc.name, once)
		}
		for i, s := range tc.specs {
			if (s.IdempotencyKey != "") != tc.keys[i] {
				t.Errorf("%s: task %d has key %q", tc.name, i, s.IdempotencyKey)
			}
		}
	}
}

// TestAlone: of what was on its way when a node refused a message as too large, each goes alone until it is known which it
// was; then that one fails, and what waited behind goes on together.
func TestAlone(t *testing.T) {
	s := &Submitter{wake: make(chan struct{}, 1)}
	s.mu.flight = map[uint64][]*submission{}
	one := func(name string) *submission {
		return &submission{specs: []api.TaskSpec{{Action: name}}, bytes: 300, done: make(chan struct{})}
	}
	a, b, c, d := one("a"), one("b"), one("c"), one("d")
	s.mu.queue = []*submission{a, b}
	names := func() (list []string) {
		_, specs := s.batch()
		for _, x := range specs {
			list = append(list, x.Action)
		}
		return list
	}
	if got := names(); len(got) != 2 {
		t.Fatalf("sent %v", got)
	}
	s.mu.queue = []*submission{c, d}
	large := api.Errorf(413, 2, "message_too_large", api.RetryNo, "at most so many")
	s.requeue(large)
	first := names()
	if got := names(); len(first) != 1 || got != nil {
		t.Fatalf("sent %v, and %v beside it", first, got)
	}
	bad, good := a, b
	if first[0] == "b" {
		bad, good = b, a
	}
	s.requeue(large)
	select {
	case <-bad.done:
	default:
		t.Fatal("the one that was alone did not fail")
	}
	if tooLarge(bad.err) == nil || good.err != nil || c.err != nil || d.err != nil {
		t.Errorf("errors %v, %v, %v, %v", bad.err, good.err, c.err, d.err)
	}
	if got := names(); len(got) != 1 || got[0] != good.specs[0].Action {
		t.Errorf("then %v", got)
	}
	if got := names(); got != nil {
		t.Errorf("%v beside it", got)
	}
	clear(s.mu.flight) // it was acknowledged
	if got := names(); len(got) != 2 {
		t.Errorf("at last %v", got)
	}
	s.mu.flight[99] = nil // of callers who left
	if s.suspect() {
		t.Error("nobody is suspected")
	}
	s.requeue(large)
	s.requeue(errors.New("a connection broke"))
	if c.alone != d.alone || len(s.mu.queue) != 2 {
		t.Errorf("queue %v", s.mu.queue)
	}
}

// Each field of a task counts towards its size.
func TestSizeOf(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Interface().(type) {
		case *time.Time:
			at := time.Date(2200, 1, 1, 1, 1, 1, 999_999_999, time.UTC)
			v.Set(reflect.ValueOf(&at))
			return
		case json.RawMessage:
			v.SetBytes([]byte(long))
			return
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString(long)
		case reflect.Float64:
			v.SetFloat(1e300)
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int:
			v.SetInt(-1)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 3, 3))
			for i := range v.Len() {
				fill(v.Index(i))
			}
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		default:
			t.Fatalf("a field of kind %v", v.Kind())
		}
	}
	var spec api.TaskSpec
	fill(reflect.ValueOf(&spec).Elem())
	n := proto.Size(&pb.SubmitRequest{Seq: 1<<64 - 1, Tasks: specsOf([]api.TaskSpec{spec})})
	if got := sizeOf(&spec); got < n || got > n+specBytes {
		t.Errorf("size %d, it takes %d", got, n)
	}
}

// One call, or one task, that is too large is its own matter: what shares the
// stream with it gets through, and so does all that comes later.
func TestSubmitTooLarge(t *testing.T) {
	f := newFakeNode(t)
	s := dial(t, 0, f.url).Submitter()
	defer s.Close()
	of := func(name string, size int) api.TaskSpec {
		x := api.TaskSpec{Action: name, Target: "it", IdempotencyKey: "key"}
		x.Input = json.RawMessage(strings.Repeat("1", size-sizeOf(&x)))
		return x
	}
	refused := func(v api.SubmitVerdict) bool {
		return v.Error != nil && v.Error.Code == "message_too_large" && v.Error.Retry == api.RetryNo
	}
	submit := func(specs ...api.TaskSpec) []api.SubmitVerdict {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), eventually)
		defer cancel()
		vs, err := s.Submit(ctx, specs)
		if err != nil || len(vs) != len(specs) {
			t.Fatalf("%d verdicts on %d tasks: %v", len(vs), len(specs), err)
		}
		for i, v := range vs {
			if v.Error == nil && v.TaskID != specs[i].Action {
				t.Fatalf("task %d: %s has the verdict of %s", i, specs[i].Action, v.TaskID)
			}
		}
		return vs
	}
	many := make([]api.TaskSpec, api.MaxBatch)
	for i := range many {
		many[i] = of(fmt.Sprint("many-", i), 17<<10)
	}
	for i, v := range submit(many...) {
		if v.Error != nil {
			t.Fatalf("task %d of 17 MiB in one call: %v", i, v.Error)
		}
	}
	if v := submit(of("at", maxMessageBytes)); v[0].Error != nil {
		t.Errorf("at the limit: %v", v[0].Error)
	}
	if v := submit(of("over", maxMessageBytes+1)); !refused(v[0]) {
		t.Errorf("over the limit: %+v", v[0])
	}
	if v := submit(of("a", 999), of("over", maxMessageBytes+1), of("b", 999)); v[0].Error != nil || !refused(v[1]) || v[2].Error != nil {
		t.Errorf("in a batch: %+v", v)
	}
	if n := f.broken.Load(); n != 0 {
		t.Errorf("the node refused %d messages", n)
	}
	f.limit.Store(1 << 18) // another node's
	var calls sync.WaitGroup
	for i := range 40 {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), eventually)
			defer cancel()
			x := []api.TaskSpec{of(fmt.Sprint("call-", i), 5000)}
			if i == 20 {
				x[0] = of("call-20", 1<<19)
			}
			if v, err := s.Submit(ctx, x); err != nil || refused(v[0]) != (i == 20) || i != 20 && v[0].TaskID != x[0].Action {
				t.Errorf("call %d: %+v, %v", i, v, err)
			}
		})
	}
	calls.Wait()
	if n := f.broken.Load(); n < 1 || n > 3 {
		t.Errorf("the node refused %d messages", n)
	}
}
