package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// chainOf makes a journal of n records about a shard.
func chainOf(t *testing.T, shard uint32, n int) ([][]byte, Head) {
	s, j := newTestTasks(t, shard, newMemCold())
	for i := range n {
		sp := testSpec()
		sp.Key = fmt.Sprint(i)
		s.Apply(At{Index: uint64(i + 1), TimeMillis: int64(i)}, submitOf(NewTaskID(shard, int64(i), uint64(i)), sp).Append(nil), nil)
	}
	if len(j.records) != n {
		t.Fatalf("%d records", len(j.records))
	}
	return j.records, s.Head()
}

// firstBad verifies a journal against its head and names the first record
// that does not stand.
func firstBad(records [][]byte, head Head) (uint64, error) {
	h := NewChain(1)
	for _, b := range records {
		next, _, _, err := VerifyChain(1, h, b)
		if err != nil {
			return err.(*ChainError).Seq, err
		}
		h = next
	}
	if err := h.Reaches(1, head); err != nil {
		return err.(*ChainError).Seq, err
	}
	return 0, nil
}

// TestChainNamesEveryFault: whatever is done to a journal, the first record
// that is not as it was written is named.
func TestChainNamesEveryFault(t *testing.T) {
	const n = 9
	records, head := chainOf(t, 1, n)
	if seq, err := firstBad(records, head); err != nil {
		t.Fatalf("record %d of an untouched journal: %v", seq, err)
	}
	want := func(what string, seq int, j [][]byte) {
		t.Helper()
		got, err := firstBad(j, head)
		var ce *ChainError
		if got != uint64(seq) || !errors.As(err, &ce) || !strings.Contains(err.Error(), fmt.Sprintf("shard 1 record %d", seq)) {
			t.Errorf("%s: record %d named, want %d: %v", what, got, seq, err)
		}
	}
	for i := range records {
		for at := range records[i] {
			for _, bit := range []byte{1, 0x80} {
				j := slices.Clone(records)
				j[i] = bytes.Clone(j[i])
				j[i][at] ^= bit
				want(fmt.Sprintf("byte %d of record %d altered", at, i+1), i+1, j)
			}
		}
		want("record missing", i+1, slices.Delete(slices.Clone(records), i, i+1))
		want("cut behind", i+1, records[:i])
		repeated := slices.Insert(slices.Clone(records), i, records[i])
		want("record repeated", min(i+2, n+1), repeated)
		for cut := range records[i] {
			j := slices.Clone(records)
			j[i] = j[i][:cut]
			want(fmt.Sprintf("record cut to %d bytes", cut), i+1, j)
		}
		if i > 0 {
			j := slices.Clone(records)
			j[i-1], j[i] = j[i], j[i-1]
			want("records swapped", i, j)
		}
	}
}

// TestChainForeign: another shard's records, and another journal with the same
// beginning, are told apart.
func TestChainForeign(t *testing.T) {
	records, head := chainOf(t, 1, 3)
	other, _ := chainOf(t, 2, 3)
	if seq, err := firstBad([][]byte{records[0], other[1], records[2]}, head); seq != 2 || !strings.Contains(err.Error(), "foreign") {
		t.Errorf("record %d: %v", seq, err)
	}
	_, longer := chainOf(t, 1, 4)
	if seq, err := firstBad(records, longer); seq != 4 || !strings.Contains(err.Error(), "missing") {
		t.Errorf("record %d: %v", seq, err)
	}
	if seq, err := firstBad(records, Head{Seq: 2}); seq != 3 || !strings.Contains(err.Error(), "beyond") {
		t.Errorf("record %d: %v", seq, err)
	}
	if seq, err := firstBad(records, Head{Seq: 3, Hash: [32]byte{1}}); seq != 3 || !strings.Contains(err.Error(), "another chain") {
		t.Errorf("record %d: %v", seq, err)
	}
	// Rewritten with hashes that fit: only a head kept elsewhere can tell.
	var forged [][]byte
	j := newJournal(1, func(b []byte) { forged = append(forged, bytes.Clone(b)) })
	for range 3 {
		j.write(&Record{Verb: VerbSubmit})
	}
	if seq, err := firstBad(forged, head); seq != 3 || err == nil {
		t.Errorf("a forged journal: record %d: %v", seq, err)
	}
}
