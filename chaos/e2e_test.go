package chaos

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// TestNothingIsLostUnderFaults is the end-to-end test: three processes,
// concurrent submitters and workers, SIGKILLs, hangs and restarts, and the
// checker over everything anybody was told. Longer and repeated:
//
//	go test ./chaos -run NothingIsLost -seed 42 -duration 5m
//	quorate chaos run --seed 42 --duration 5m
func TestNothingIsLostUnderFaults(t *testing.T) {
	var out bytes.Buffer
	rep, err := Run(t.Context(), RunConfig{Binary: binary(t), Seed: *seedFlag, Duration: *durationFlag, Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Logf("\n%s", out.String())
	faults := 0
	for _, n := range rep.Faults {
		faults += n
	}
	if faults == 0 || rep.Tasks == 0 || rep.Grants == 0 || rep.Completed == 0 || rep.Records == 0 || rep.Effects == 0 || rep.Doubts == 0 {
		t.Errorf("a run that did nothing proves nothing: %+v", rep)
	}
}

func TestScheduleRepeats(t *testing.T) {
	a, b := schedule(7, 5, time.Minute), schedule(7, 5, time.Minute)
	if !slices.Equal(a, b) || len(a) == 0 {
		t.Errorf("seed 7 drew %v and %v", a, b)
	}
	if slices.Equal(a, schedule(8, 5, time.Minute)) {
		t.Error("seed 8 drew the same as seed 7")
	}
	var total time.Duration
	for _, f := range a {
		if f.shard >= 5 || f.wait < minFaultWait || f.wait > maxFaultWait || f.down < minFaultDown || f.down > maxFaultDown {
			t.Errorf("fault %+v is out of bounds", f)
		}
		total += f.wait + f.down
	}
	if total > time.Minute {
		t.Errorf("faults take %v of a minute", total)
	}
}

func TestRunDurationLimit(t *testing.T) {
	if _, err := Run(t.Context(), RunConfig{Duration: MaxRunDuration + 1}); err == nil {
		t.Errorf("a run of more than %v was accepted", MaxRunDuration)
	}
}

// TestDemonstration runs the real thing on a few packages, kill included.
func TestDemonstration(t *testing.T) {
	var out bytes.Buffer
	rep, err := Demo(t.Context(), DemoConfig{Binary: binary(t), Limit: 6, Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Logf("\n%s", out.String())
	if rep.Submitted != 12 || rep.Completed != 12 || rep.Killed == "" || !rep.Verified || !rep.EqualHeads || rep.Records < 24 {
		t.Errorf("report %+v", rep)
	}
}
