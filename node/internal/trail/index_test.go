package trail

import (
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/internal/files"
)

var indexRecords = flag.Int("records", 100_000, "records of BenchmarkIndex; the bar is at 10,000,000")

// madeJournal makes its records when they are read: record i+1 is at offset
// i × width, so that ten million need no disk.
type madeJournal struct {
	n     int
	buf   []byte
	floor int // records that are gone
}

func (j *madeJournal) Floor() (int64, []byte) {
	f := Floor{Records: uint64(j.floor), Chain: strings.Repeat("00", 32), Peaks: make([]string, bits.OnesCount(uint(j.floor)))}
	for i := range f.Peaks {
		f.Peaks[i] = f.Chain
	}
	return int64(j.floor) * madeWidth, f.Note()
}

const madeWidth = 256

func (j *madeJournal) Size() int64 { return int64(j.n) * madeWidth }

func (j *madeJournal) record(i int) *ledger.Record {
	r := &ledger.Record{Shard: 3, Seq: uint64(i + 1), TimeMillis: 1_790_000_000_000 + int64(i), Verb: []string{"submit", "complete"}[i%2],
		Task: ledger.NewTaskID(3, int64(i/2), uint64(i/2)+1), Guarantee: ledger.AtLeastOnce, Fleet: "default", Capability: "vet:go", Agent: fmt.Sprintf("w%d", i%50)}
	if i%1000 == 7 {
		r.Regulations, r.Session = []string{"GDPR-17"}, fmt.Sprintf("s%d", i%5000)
	}
	return r
}

func (j *madeJournal) Read(offset int64, fn func(offset, next int64, record []byte) bool) error {
	if offset < int64(j.floor)*madeWidth {
		return errors.New("trimmed")
	}
	for i := int(offset / madeWidth); i < j.n; i++ {
		j.buf = j.record(i).Append(j.buf[:0])
		if !fn(int64(i)*madeWidth, int64(i+1)*madeWidth, j.buf) {
			return nil
		}
	}
	return nil
}

func buildIndex(t testing.TB, dir string, j *madeJournal) *Index {
	t.Helper()
	x, err := OpenIndex(files.FS{}, dir, 3, j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	for more := true; more; {
		if more, err = x.Advance(uint64(j.n)); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func always() bool { return true }

func find(t testing.TB, x *Index, from uint64, limit int, oldest, newest int64, terms ...Term) (seqs []uint64) {
	t.Helper()
	_, err := x.Find(from, terms, oldest, newest, always, func(seq uint64, offset int64) bool {
		if offset != int64(seq-1)*madeWidth {
			t.Fatalf("record %d at %d", seq, offset)
		}
		seqs = append(seqs, seq)
		return len(seqs) < limit
	})
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

// TestIndex compares what is found with what is there.
func TestIndex(t *testing.T) {
	j := &madeJournal{n: 3*BlockRecords + 100}
	dir := t.TempDir()
	x := buildIndex(t, dir, j)
	if next, _ := x.Next(); next != 3*BlockRecords+1 {
		t.Fatalf("indexed up to %d", next)
	}
	all := func(r *ledger.Record) map[Term]bool {
		m := map[Term]bool{}
		_, err := ledger.EachTerm(r.Append(nil), func(f ledger.Field, v []byte) { m[TermOf(f, v)] = true })
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	have := make([]map[Term]bool, 3*BlockRecords)
	for i := range have {
		have[i] = all(j.record(i))
	}
	compare := func(x *Index) {
		t.Helper()
		for range 60 {
			var terms []Term
			for m := range have[rnd.IntN(len(have))] {
				if len(terms) < 1+rnd.IntN(3) {
					terms = append(terms, m)
				}
			}
			if rnd.IntN(8) == 0 {
				terms = append(terms, TermOf(ledger.FieldAgent, []byte("nobody")))
			}
			from, oldest := uint64(rnd.IntN(len(have))), int64(0)
			var want []uint64
			for i, m := range have {
				if uint64(i+1) >= from && !slices.ContainsFunc(terms, func(x Term) bool { return !m[x] }) {
					want = append(want, uint64(i+1))
				}
			}
			if got := find(t, x, from, 1<<30, oldest, 1<<62, terms...); !slices.Equal(got, want) {
				t.Fatalf("%d found, %d there", len(got), len(want))
			}
		}
	}
	compare(x)
	if got := find(t, x, 0, 1<<30, 1_790_000_000_000+BlockRecords, 1_790_000_000_000+BlockRecords+5, TermOf(ledger.FieldVerb, []byte("submit"))); len(got) != BlockRecords/2 {
		t.Errorf("of one block's time: %d", len(got))
	}
	// Reopened; cut by a crash; damaged.
	x.Close()
	compare(buildIndex(t, dir, j))
	path := dir + "/0003.index"
	st, _ := os.Stat(path)
	if err := os.Truncate(path, st.Size()-100); err != nil {
		t.Fatal(err)
	}
	compare(buildIndex(t, dir, j))
	if err := zero(path, st.Size()/2, 64); err != nil {
		t.Fatal(err)
	}
	y := buildIndex(t, dir, j)
	if _, err := y.Find(0, []Term{TermOf(ledger.FieldVerb, []byte("submit"))}, 0, 1<<62, always, func(uint64, int64) bool { return true }); err == nil {
		t.Error("a damaged block answers")
	}
}

// BenchmarkIndex builds an index and reads pages of 100: of common and rare
// terms, at the beginning and at the end, and of two terms that never meet.
func BenchmarkIndex(b *testing.B) {
	j := &madeJournal{n: *indexRecords}
	began := time.Now()
	x := buildIndex(b, b.TempDir(), j)
	disk, memory := x.Bytes()
	n := float64(j.n)
	b.Logf("%d records: %.0f ns a record to build, %.1f bytes a record on disk, %.1f in memory", j.n, float64(time.Since(began))/n, float64(disk)/n, float64(memory)/n)
	term := func(f ledger.Field, v string) Term { return TermOf(f, []byte(v)) }
	lastTask := j.record(j.n / BlockRecords * BlockRecords * 9 / 10).Task
	for name, terms := range map[string][]Term{"agent": {term(ledger.FieldAgent, "w7")}, "regulation": {term(ledger.FieldRegulation, "GDPR-17")},
		"session": {term(ledger.FieldSession, "s7")}, "task": {TermOf(ledger.FieldTask, lastTask[:])}, "none": {term(ledger.FieldAgent, "nobody")},
		"never-together": {term(ledger.FieldAgent, "w7"), term(ledger.FieldAgent, "w8")}} {
		for _, from := range []uint64{0, uint64(j.n) * 9 / 10} {
			b.Run(fmt.Sprintf("%s/from=%d", name, from), func(b *testing.B) {
				for range b.N {
					find(b, x, from, 100, 0, 1<<62, terms...)
				}
			})
		}
	}
}
