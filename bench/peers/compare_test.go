package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeLines(t *testing.T, quorate, peer []float64) string {
	t.Helper()
	q, p := &series{Value{Metric: "m", Unit: "ops/s"}, quorate}, &series{Value{Metric: "m", Unit: "ops/s"}, peer}
	var b bytes.Buffer
	if err := printJSON(&b, []line{compare("w", "peer", q, p)}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCompareTellsNoiseFromChange: a machine twice as fast for both is no change, twice the ratio is one.
func TestCompareTellsNoiseFromChange(t *testing.T) {
	base := writeLines(t, []float64{100, 105, 95, 102, 98}, []float64{50, 52, 48, 51, 49})
	for _, c := range []struct {
		want          string
		quorate, peer []float64
	}{
		{"not beyond the noise", []float64{200, 210, 190, 204, 196}, []float64{100, 104, 96, 102, 98}},
		{"better", []float64{200, 210, 190, 204, 196}, []float64{50, 52, 48, 51, 49}},
		{"worse", []float64{50, 52, 48, 51, 49}, []float64{50, 52, 48, 51, 49}},
	} {
		var out bytes.Buffer
		if err := compareFiles(&out, base, writeLines(t, c.quorate, c.peer)); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("want %q (%v):\n%s", c.want, err, out.String())
		}
	}
}

func TestCompareRefusesWhatItCannotRead(t *testing.T) {
	good := writeLines(t, []float64{1}, []float64{1})
	for name, content := range map[string]string{"text": "hello\n", "no runs": "{}\n", "empty": ""} {
		path := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := compareFiles(&bytes.Buffer{}, good, path); err == nil {
			t.Errorf("%s is compared", name)
		}
	}
}
