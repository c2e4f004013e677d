package ledger

import "testing"

func TestSmoke(t *testing.T) {
	var j [][]byte
	s := NewTasks(1, nil, func(b []byte) { j = append(j, append([]byte(nil), b...)) })
	if err := s.Restore(nil); err != nil {
		t.Fatal(err)
	}
	id := NewTaskID(1, 5, 7)
	sp := Spec{Fleet: "f", Action: "a", Target: "t", Priority: PriorityNormal, Guarantee: AtLeastOnce, Key: "k", LeaseMillis: 1000, Input: []byte(`{}`)}
	c := &Submit{ID: id, Spec: sp, RequestHash: RequestHash(&sp)}
	o, ev := s.Apply(At{Index: 1, TimeMillis: 10}, c.Append(nil), nil)
	if o.Code != OK || len(ev) != 1 {
		t.Fatal(o, ev)
	}
	o, _ = s.Apply(At{Index: 2, TimeMillis: 11}, c.Append(nil), nil)
	if !o.Replayed {
		t.Fatal(o)
	}
	o, _ = s.Apply(At{Index: 3, TimeMillis: 12}, (&Complete{ID: id, Agent: "x", Epoch: 3, Result: []byte("1")}).Append(nil), nil)
	if o.State != StateCompleted {
		t.Fatal(o)
	}
	h := NewChain(1)
	for _, b := range j {
		var err error
		if h, _, _, err = VerifyChain(1, h, b); err != nil {
			t.Fatal(err)
		}
	}
	if h != s.Head() || h.Seq != 2 {
		t.Fatal(h)
	}
}
