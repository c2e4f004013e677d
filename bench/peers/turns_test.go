package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// fake gives its values one after the other and notes whose turn it was.
func fake(name string, turns *[]string, values ...float64) Contender {
	return Contender{Name: name, Run: func(context.Context, Options) ([]Value, error) {
		*turns = append(*turns, name)
		v := values[0]
		values = values[1:]
		if v < 0 {
			return nil, errors.New("broken")
		}
		return []Value{{Metric: "speed", Unit: "ops/s", Value: v}, {Metric: name, Unit: "ms", Value: 1, Lower: true}}, nil
	}}
}

var quiet = Options{Logf: func(string, ...any) {}}

func TestTurnsAndRatios(t *testing.T) {
	var turns []string
	w := Workload{Name: "w", About: "about", Quorate: fake("quorate", &turns, 30, 10, 20)}
	peers := []Contender{fake("a", &turns, 5, 4, 6), fake("b", &turns, 40, 40, 40)}
	lines, err := takeTurns(t.Context(), w, peers, 3, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"quorate", "a", "b", "b", "a", "quorate", "quorate", "a", "b"}; !slices.Equal(turns, want) {
		t.Errorf("turns %v, want %v", turns, want)
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines: %+v; the metrics without a counterpart are left out", len(lines), lines)
	}
	if l := lines[0]; l.Peer != "a" || l.Quorate != 20 || l.PeerValue != 5 || l.Ratio != 4 || l.QuorateMin != 10 || l.QuorateMax != 30 || l.Rounds != 3 {
		t.Errorf("line %+v", l)
	}
	if l := lines[1]; l.Peer != "b" || l.Ratio != 0.5 || l.Better != "higher" {
		t.Errorf("line %+v", l)
	}
	var out bytes.Buffer
	if err := printJSON(&out, lines); err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(bytes.SplitN(out.Bytes(), []byte("\n"), 2)[0], &object); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"workload", "peer", "quorate", "peer_value", "unit", "ratio"} {
		if _, ok := object[field]; !ok {
			t.Errorf("no field %s in %v", field, object)
		}
	}
	out.Reset()
	if err := printTable(&out, w, peers, lines); err != nil || !strings.Contains(out.String(), "4.00") {
		t.Errorf("table (%v):\n%s", err, out.String())
	}
}

func TestBrokenContenderEndsTheRun(t *testing.T) {
	var turns []string
	w := Workload{Name: "w", Quorate: fake("quorate", &turns, 1, 1)}
	if lines, err := takeTurns(t.Context(), w, []Contender{fake("a", &turns, -1)}, 1, quiet); err == nil || lines != nil {
		t.Errorf("%v, %v", lines, err)
	}
}

func TestChoose(t *testing.T) {
	var turns []string
	gone := fake("gone", &turns, 1)
	gone.Missing = func() error { return errNotInstalled }
	w := Workload{Name: "w", Peers: []Contender{fake("a", &turns, 1), gone}}
	for list, want := range map[string]string{"": "a", "a": "a", "a,other": "a", "other": "none of the peers", "a,gone": "not installed"} {
		var told string
		got, err := w.choose(list, func(format string, args ...any) { told += fmt.Sprintf(format, args...) })
		if want := "left out of w: gone: " + errNotInstalled.Error(); list == "" && told != want || list != "" && told != "" {
			t.Errorf("%q: told %q, want %q for an empty list", list, told, want)
		}
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", list, err, want)
			}
		} else if len(got) != 1 || got[0].Name != want {
			t.Errorf("%q: %+v", list, got)
		}
	}
	if _, err := findWorkload("nonsense"); err == nil {
		t.Error("a workload that is not there")
	}
}

func TestRates(t *testing.T) {
	if r, err := parseRates("2000, 1000000"); err != nil || !slices.Equal(r, []int{2000, maxRate}) {
		t.Errorf("%v, %v", r, err)
	}
	for _, bad := range []string{"0", "-1", "x", "1000001", "1,,2"} {
		if r, err := parseRates(bad); err == nil {
			t.Errorf("%q gives %v", bad, r)
		}
	}
}

func TestTaskIsItsOwnRecord(t *testing.T) {
	b := encodeTask(7, 9)
	if seq, due, err := decodeTask(b); err != nil || seq != 7 || due != 9 || len(b) != lifecyclePayload {
		t.Errorf("%d, %d, %v, %d bytes", seq, due, err, len(b))
	}
	if _, _, err := decodeTask(b[:taskHeader-1]); err == nil {
		t.Error("a short task passes")
	}
}
