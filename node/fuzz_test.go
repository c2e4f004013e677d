package node

import (
	"bytes"
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
