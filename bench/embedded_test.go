package bench

import (
	"testing"
	"time"
)

func TestEmbeddedLimits(t *testing.T) {
	if _, err := (EmbeddedConfig{Duration: maxDuration, WarmUp: maxDuration, Window: maxWindow}).checked(); err != nil {
		t.Errorf("at the limits: %v", err)
	}
	for _, cfg := range []EmbeddedConfig{{Duration: maxDuration + 1}, {WarmUp: maxDuration + 1}, {Window: maxWindow + 1}, {Duration: -1}} {
		if _, err := Embedded(t.Context(), cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// TestEmbeddedForReal loads a node in this process that leads two others. It
// asserts that lifecycles come through and that their CPU is known.
func TestEmbeddedForReal(t *testing.T) {
	r, err := Embedded(t.Context(), EmbeddedConfig{Binary: executable(t), Duration: time.Second, WarmUp: 200 * time.Millisecond, Window: 512})
	if err != nil {
		t.Fatal(err)
	}
	if r.Completed == 0 || r.PerSecond <= 0 || r.MicrosPerLifecycle <= 0 || r.Latency.P99Millis <= 0 {
		t.Errorf("%+v", r)
	}
}
