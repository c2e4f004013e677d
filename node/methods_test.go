package node

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// What stands on the wire between versions: two equal keys do not compile.
var (
	methodNumbers = map[method]uint8{
		methodDo:        1,
		methodTask:      2,
		methodTasks:     3,
		methodRenew:     4,
		methodHeld:      6,
		methodStats:     7,
		methodAgents:    8,
		methodSeen:      9,
		methodGone:      10,
		methodWhy:       11,
		methodCosign:    12,
		methodPacks:     13,
		methodSteal:     14,
		methodRenewMany: 40,
		methodBodies:    60,
		methodRecords:   61,
		methodShard:     62,
		methodChange:    63,
		methodHosts:     64,
		methodCreate:    65,
		methodDrop:      66,
		methodRetired:   67,
		methodNodes:     68,
		methodGiveBack:  90,
		methodHolding:   91,
		methodJournal:   92,
		methodElsewhere: 93,
		methodRetention: 97,
		methodRob:       110,
		methodTransfer:  111,
		methodHead:      120,
		methodLinks:     121,
		methodLeaf:      122,
		methodFind:      123,
	}
	notifyNumbers = map[uint8]uint8{
		notifyDepths:  1,
		notifyConfirm: 3,
		notifySession: 40,
		notifyLoad:    50,
		notifyLeads:   60,
		notifyIdle:    93,
		notifySpare:   94,
		notifyWaits:   95,
		notifyGift:    96,
	}
)

func TestMethodNumbers(t *testing.T) {
	for _, numbers := range []map[uint8]uint8{methodNumbers, notifyNumbers} {
		for is, want := range numbers {
			if is != want {
				t.Errorf("%d was %d", is, want)
			}
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "methods.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok {
			names += len(s.Names)
		}
		return true
	})
	if listed := len(methodNumbers) + len(notifyNumbers); names != listed {
		t.Errorf("%d numbers in methods.go, %d here", names, listed)
	}
}
