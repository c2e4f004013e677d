package node

import "testing"

// TestRosterEnds: the end of a connection is a loss unless the agent was heard
// of since. What the node that tells of the end saw before is no sign of life,
// however long it was on its way; what another node saw is compared by age.
func TestRosterEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		seen  []sighting // taken in at 1,000, in this order
		end   goneRequest
		lost  bool
		after []sighting // taken in after the end
		news  int        // of after
	}{
		{"seen before, and told late", []sighting{{Agent: "a", Node: "n1", At: 500, Age: 0}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, true, nil, 0},
		{"seen again on the same node", []sighting{{Agent: "a", Node: "n1", At: 900, Age: 10}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, false, nil, 0},
		{"seen since by another", []sighting{{Agent: "a", Node: "n2", At: 5, Age: 10}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, false, nil, 0},
		{"seen by another, before", []sighting{{Agent: "a", Node: "n2", At: 5, Age: 400}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, true, nil, 0},
		{"a node that names no time, before", []sighting{{Agent: "a", Node: "n1", Age: 400}}, goneRequest{Agent: "a", Age: 300}, true, nil, 0},
		{"a node that names no time, since", []sighting{{Agent: "a", Node: "n1", Age: 10}}, goneRequest{Agent: "a", Age: 300}, false, nil, 0},
		{"an older sighting comes after the end", []sighting{{Agent: "a", Node: "n1", At: 500}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, true,
			[]sighting{{Agent: "a", Node: "n1", At: 505}}, 0},
		{"a newer one does", []sighting{{Agent: "a", Node: "n1", At: 500}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, true,
			[]sighting{{Agent: "a", Node: "n1", At: 511}}, 1},
		{"another node's does", []sighting{{Agent: "a", Node: "n1", At: 500}}, goneRequest{Agent: "a", Node: "n1", At: 510, Age: 300}, true,
			[]sighting{{Agent: "a", Node: "n2", At: 1}}, 1},
	} {
		r := newRoster(func() int64 { return 1000 })
		if news := r.merge(c.seen); len(news) != len(c.seen) {
			t.Errorf("%s: %d of %d sightings taken in", c.name, len(news), len(c.seen))
		}
		if lost := r.ended(&c.end); lost != c.lost {
			t.Errorf("%s: lost %v", c.name, lost)
		}
		if news := r.merge(c.after); len(news) != c.news {
			t.Errorf("%s: %d sightings after the end taken in, want %d", c.name, len(news), c.news)
		}
	}
}
