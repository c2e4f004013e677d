package node

import (
	"bytes"
	"slices"
	"testing"

	"github.com/quorate/quorate/ledger"
)

// FuzzForwarded: commands and answers that go from node to node are taken as
// they were sent, or refused.
func FuzzForwarded(f *testing.F) {
	id := ledger.NewTaskID(1, 1, 1)
	one := (&ledger.Cancel{ID: id, By: "me"}).Append(nil)
	f.Add(append([]byte{1, 1, byte(len(one))}, one...), 1)
	f.Add(encodeAnswers([]answer{{outcome: ledger.Outcome{Code: ledger.OK, ID: id}}, {err: errNotLeader}, {err: errDiskFull()}}), 3)
	f.Fuzz(func(t *testing.T, b []byte, count int) {
		if _, cmds, err := decodeDo(b); err == nil && len(cmds) > maxForwarded {
			t.Fatalf("%d commands", len(cmds))
		}
		if count < 0 || count > maxForwarded {
			return
		}
		answers, err := decodeAnswers(b, count)
		if err != nil {
			return
		}
		again, err := decodeAnswers(encodeAnswers(answers), count)
		if err != nil || !bytes.Equal(encodeAnswers(again), encodeAnswers(answers)) {
			t.Fatalf("%+v became %+v, %v", answers, again, err)
		}
	})
}

// FuzzGrants: leases that cross between nodes come as they were sent, or not at all.
func FuzzGrants(f *testing.F) {
	id := ledger.NewTaskID(1, 1, 1)
	sent := []stolen{{ID: id, Epoch: 1<<63 | 7, LeaseMillis: 30_000, Attempt: 3}, {ID: id, Epoch: 1, Attempt: 1<<32 - 1, Logged: true}, {}}
	if got, err := readGrants(appendGrants(nil, sent)); err != nil || !slices.Equal(got, sent) {
		f.Fatalf("%+v, %v", got, err)
	}
	full := appendGrants(nil, make([]stolen, MaxLeases))
	if got, err := readGrants(full); err != nil || len(got) != MaxLeases {
		f.Fatalf("%d leases, %v", len(got), err)
	}
	if _, err := readGrants(appendGrants(full, sent[:1])); err == nil {
		f.Fatal("one lease more than MaxLeases")
	}
	f.Add(appendGrants(nil, sent))
	f.Add(full[:len(full)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readGrants(b)
		if err != nil {
			return
		}
		if again, err := readGrants(appendGrants(nil, got)); err != nil || !slices.Equal(again, got) {
			t.Fatalf("%+v became %+v, %v", got, again, err)
		}
	})
}
