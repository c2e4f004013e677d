package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// fill gives every field below v a value of its own, so that a field that is
// lost or mistaken for another shows.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch x := v.Addr().Interface().(type) {
	case *json.RawMessage:
		*x = json.RawMessage(fmt.Sprintf(`{"n":%d}`, *n))
		return
	case *time.Time:
		*x = time.Unix(int64(*n), int64(*n)*1000).UTC()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	default:
		t.Fatalf("fill knows no %s", v.Type())
	}
}

// whole keeps what is submitted, and gives its leases once.
type whole struct {
	*fake
	specs  chan []api.TaskSpec
	leases chan []api.Lease
}

type wholeWorker struct {
	*fakeWorker
	leases chan []api.Lease
}

func (f *whole) Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	f.specs <- specs
	return f.fake.Submit(ctx, specs, by)
}

func (f *whole) OpenWork(ctx context.Context, h api.WorkHello) (Worker, error) {
	w, err := f.fake.OpenWork(ctx, h)
	if err != nil {
		return nil, err
	}
	return wholeWorker{w.(*fakeWorker), f.leases}, nil
}

func (w wholeWorker) Take(ctx context.Context, _ int) ([]api.Lease, error) {
	select {
	case got := <-w.leases:
		return got, nil
	case <-ctx.Done():
	case <-w.f.leaving:
	}
	return nil, nil
}

// TestEveryFieldCrosses: a task means over the stream what it means over HTTP.
// What the interface's types have and the protocol's have not is lost here.
func TestEveryFieldCrosses(t *testing.T) {
	f := &whole{fake: newFake(), specs: make(chan []api.TaskSpec, 1), leases: make(chan []api.Lease, 1)}
	c, err := client.New(client.Config{URLs: []string{serve(t, f, Config{})}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	var spec api.TaskSpec
	var lease api.Lease
	n := 0
	fill(t, reflect.ValueOf(&spec).Elem(), &n)
	fill(t, reflect.ValueOf(&lease).Elem(), &n)

	s := c.Submitter()
	defer s.Close()
	if _, err := s.Submit(ctx, []api.TaskSpec{spec}); err != nil {
		t.Fatal(err)
	}
	same(t, (<-f.specs)[0], spec)

	f.leases <- []api.Lease{lease}
	got := make(chan api.Lease, 1)
	work, stop := context.WithCancel(ctx)
	defer stop()
	err = c.Work(work, api.Manifest{AgentID: "a", Capabilities: []api.Capability{{Action: "do", Target: "it"}}},
		func(_ context.Context, task *client.Task) (any, error) {
			got <- task.Lease
			stop()
			return nil, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	same(t, <-got, lease)
}

// same compares field by field, to name the one that differs.
func same[T any](t *testing.T, got, want T) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			a, _ := json.Marshal(g.Field(i).Interface())
			b, _ := json.Marshal(w.Field(i).Interface())
			t.Errorf("%T.%s is %s, was sent as %s", got, g.Type().Field(i).Name, a, b)
		}
	}
}
