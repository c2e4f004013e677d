package gate

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/node/api"
)

func TestBytes(t *testing.T) {
	b := NewBytes(1000)
	m, other := b.Meter(), b.Meter()
	for _, n := range []int{FreeArriving, 600, 0, 400} { // at the limit
		if err := m.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if !m.Large() || b.Used() != 1000 {
		t.Errorf("%d bytes", b.Used())
	}
	if err := other.Add(FreeArriving); err != nil || other.Large() {
		t.Errorf("a small one: %v", err)
	}
	var e *api.Error
	if err := other.Add(1); !errors.As(err, &e) || e.Code != "too_many_bytes" || e.Status != 503 || e.Layer != 2 || e.Retry != api.RetryLater || e.Hint == "" {
		t.Errorf("one over: %v", err)
	}
	if n := other.Done(); n != 0 || b.Used() != 1000 {
		t.Errorf("%d to be given, %d used after a refusal", n, b.Used())
	}
	b.Give(m.Done())
	if err := other.Add(FreeArriving + 1000); err != nil || b.Used() != 1000 {
		t.Errorf("%d used, %v", b.Used(), err)
	}
}
