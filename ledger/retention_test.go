package ledger

import (
	"fmt"
	"strings"
	"testing"
)

// TestRetentionFleetsLimit: as many fleets as may have a retention, and one more.
func TestRetentionFleetsLimit(t *testing.T) {
	c := NewControl(newMemCold(), func([]byte) {})
	set := func(fleet string) Outcome {
		x := FleetRetention{Fleet: fleet, TaskMillis: MinRetentionMillis, KeyMillis: MinRetentionMillis}
		o, _ := c.Apply(At{Index: 1, Term: 1, TimeMillis: 1_790_000_000_000}, x.Append(nil), nil)
		return o
	}
	for i := range MaxRetentionFleets {
		if o := set(fmt.Sprint("f", i)); o.Code != OK {
			t.Fatalf("fleet %d: %+v", i, o)
		}
	}
	if o := set("one more"); o.Code != Invalid || !strings.Contains(o.Detail, fmt.Sprint(MaxRetentionFleets)) {
		t.Errorf("one over: %+v", o)
	}
	records := func(fleet string, ms int64) Outcome {
		x := FleetRecords{Fleet: fleet, Millis: ms}
		o, _ := c.Apply(At{Index: 1, Term: 1, TimeMillis: 1_790_000_000_000}, x.Append(nil), nil)
		return o
	}
	for i := range MaxRetentionFleets {
		if o := records(fmt.Sprint("f", i), MinRecordMillis); o.Code != OK {
			t.Fatalf("records of fleet %d: %+v", i, o)
		}
	}
	if o := records("one more", MinRecordMillis); o.Code != Invalid || !strings.Contains(o.Detail, fmt.Sprint(MaxRetentionFleets)) {
		t.Errorf("records, one over: %+v", o)
	}
	if o := set("f7"); o.Code != OK || !o.Replayed || len(c.Retentions()) != MaxRetentionFleets {
		t.Errorf("a known one: %+v", o)
	}
}
