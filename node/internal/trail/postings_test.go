package trail

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quorate/quorate/ledger"
)

// TestPostings compares a block's lists with a plain map, also when they are
// made of what another block has left, and when terms have their first bits in
// common.
func TestPostings(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		p := newPostings()
		want := map[Term][]uint16{}
		for at := range uint16(BlockRecords) >> (round % 3) {
			task := Term(rng.Uint64())
			switch round % 4 {
			case 1:
				task >>= 40 // one bucket
			case 2:
				task = Term(rng.Uint64N(50)) << 55 // many records of each
			}
			agent := Term(rng.Uint64N(9)) << 60 // between tasks, and some of their terms
			p.add(ledger.FieldTask, task, at)
			want[task] = append(want[task], at)
			p.add(ledger.FieldAgent, agent|1, at)
			p.add(ledger.FieldAgent, agent|1, at)
			want[agent|1] = append(want[agent|1], at)
		}
		got := p.sorted()
		if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b list) int { return cmp.Compare(a.term, b.term) }) {
			t.Fatalf("round %d: %d lists, want %d, in the order of terms", round, len(got), len(want))
		}
		for _, l := range got {
			if !slices.Equal(l.at, want[l.term]) {
				t.Fatalf("round %d: term %x is in %v, want %v", round, l.term, l.at, want[l.term])
			}
		}
		p.free()
	}
}

// BenchmarkPostings collects and sorts a block of lifecycles.
func BenchmarkPostings(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	terms := make([]Term, BlockRecords)
	for i := range terms {
		terms[i] = Term(rng.Uint64())
	}
	b.ReportAllocs()
	for b.Loop() {
		p := newPostings()
		for at, t := range terms {
			p.add(ledger.FieldTask, terms[at&^1], uint16(at))
			p.add(ledger.FieldAgent, Term(t%6), uint16(at))
			p.add(ledger.FieldGuarantee, 77, uint16(at))
			p.add(ledger.FieldAction, 78, uint16(at))
		}
		if len(p.sorted()) < BlockRecords/2 {
			b.Fatal("terms are missing")
		}
		p.free()
	}
}
