package ledger

import "testing"

// What Apply may allocate for a submit and its completion together, slabs and
// tables that grow included: the kept spec and result, and shares of blocks.
// Without an allocation per record: those are built in one buffer.
const lifecycleBudget = 3

func TestApplyAllocations(t *testing.T) {
	const lifecycles = 1 << 13
	log := benchLog(lifecycles, false)
	s := NewTasks(1, newMemCold(), func([]byte) {})
	s.Apply(At{}, (&AuditFormat{Version: recordVersion2}).Append(nil), nil)
	events := make([]Event, 0, 16)
	next := 0
	got := testing.AllocsPerRun(lifecycles-1, func() { // and once to warm up
		for range 2 {
			var o Outcome
			if o, events = s.Apply(At{Index: uint64(next), Term: 1, TimeMillis: 1_790_000_000_000}, log[next], events[:0]); o.Code != OK {
				t.Fatal(o)
			}
			next++
		}
	})
	t.Logf("%.0f allocations a lifecycle", got)
	if got > lifecycleBudget {
		t.Errorf("applying a lifecycle allocates %.0f times, want at most %d", got, lifecycleBudget)
	}
}
