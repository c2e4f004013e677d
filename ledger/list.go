package ledger

import (
	"fmt"
	"slices"
)

// Query selects tasks of a shard; zero fields match all.
type Query struct {
	Fleet, Action, Target, Session string
	States                         []State
	After                          TaskID // exclusive
	Limit                          int
}

// List returns up to Limit tasks after After in ID order, which is the order
// of their creation: those in memory merged with those in Cold.
func (s *Tasks) List(q Query) ([]Task, error) {
	var out []Task
	ids := s.sortedIDs()
	i, _ := slices.BinarySearchFunc(ids, q.After, func(a, b TaskID) int { return slices.Compare(a[:], b[:]) })
	if i < len(ids) && ids[i] == q.After {
		i++
	}
	memory := func(before []byte) { // rows whose ID is below, nil: all
		for i < len(ids) && len(out) < q.Limit && (before == nil || slices.Compare(ids[i][:], before) < 0) {
			if t, ok := q.match(s.row(s.ids[ids[i]])); ok {
				out = append(out, t)
			}
			i++
		}
	}
	if q.wants(StateCompleted) || q.wants(StateFailed) || q.wants(StateCancelled) || q.wants(StateTimedOut) || q.wants(StateRolledBack) {
		from := append(append([]byte{keyDone}, q.After[:]...), 0)
		var bad error
		err := s.cold.Scan(from, []byte{keyDone + 1}, func(k, v []byte) bool {
			id := TaskID(k[1:])
			memory(id[:])
			if len(out) >= q.Limit {
				return false
			}
			if _, ok := s.ids[id]; ok {
				return true // memory has it, newer
			}
			var r row
			if bad = r.decode(id[:], slices.Clone(v)); bad != nil {
				return false
			}
			if t, ok := q.match(&r); ok {
				out = append(out, t)
			}
			return len(out) < q.Limit
		})
		if bad != nil {
			err = bad
		}
		if err != nil {
			return nil, fmt.Errorf("ledger: shard %d: list: %w", s.shard, err)
		}
	}
	memory(nil)
	return out, nil
}

func (q *Query) wants(st State) bool { return len(q.States) == 0 || slices.Contains(q.States, st) }

func (q *Query) match(r *row) (Task, bool) {
	if !q.wants(r.state) || q.Fleet != "" && r.fleet != q.Fleet {
		return Task{}, false
	}
	t := r.task()
	is := func(want, have string) bool { return want == "" || want == have }
	return t, is(q.Action, t.Spec.Action) && is(q.Target, t.Spec.Target) && is(q.Session, t.Spec.Session)
}
