package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Summary makes the toy's state part of its digests.
func (m *toyMachine) Summary() uint64 { return m.Digest() }

func (m *toyMachine) Changed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.mu.changed
	m.mu.changed = 0
	if m.mu.garble {
		h++
	}
	return h
}

func TestDigestJudge(t *testing.T) {
	d := newDigests(1, 0)
	voters := []uint64{1, 2, 3}
	say := func(id, index, digest uint64) { d.note(id, digestPoint{index * digestEvery, digest}) }
	check := func(what string, index uint64, wrong bool, differ ...uint64) {
		t.Helper()
		gotWrong, gotDiffer := d.judge(index*digestEvery, voters)
		if gotWrong != wrong || !slices.Equal(gotDiffer, differ) {
			t.Errorf("%s: wrong %v, differ %v", what, gotWrong, gotDiffer)
		}
	}
	say(2, 1, 7)
	check("nothing of its own", 1, false)
	say(1, 1, 7)
	check("two of three", 1, false)
	if d.agreed != digestEvery {
		t.Errorf("agreed at %d", d.agreed)
	}
	say(3, 1, 8)
	check("the third differs", 1, false, 3)
	say(1, 2, 1)
	say(2, 2, 2)
	check("one against one", 2, false, 2)
	say(3, 2, 3)
	check("three states", 2, false, 2, 3)
	say(3, 2, 2)
	check("outvoted", 2, true, 2, 3)
	say(2, 3, 5)
	say(1, 3, 5)
	check("equal again", 3, false)
	if got := d.differing(); !slices.Equal(got, []uint64{3}) {
		t.Errorf("differing: %v", got)
	}
	say(9, 4, 1) // not a voter
	say(1, 4, 2)
	check("who does not vote", 4, false)
	// What is far behind is forgotten, and what is older never replaces what is newer.
	say(1, 5+digestsKept, 1)
	say(1, 5, 2)
	if _, ok := d.at(1, 5*digestEvery); ok {
		t.Error("an old digest replaced a new one")
	}
	// A learner is judged by the voters too.
	learner := newDigests(4, 0)
	for id, digest := range map[uint64]uint64{2: 1, 3: 1, 4: 2} {
		learner.note(id, digestPoint{digestEvery, digest})
	}
	if wrong, _ := learner.judge(digestEvery, voters); !wrong {
		t.Error("a learner in another state than the majority goes on")
	}
}

func TestDigestNotes(t *testing.T) {
	p := digestPoint{7 * digestEvery, 0xfeed}
	if got, err := decodeDigest(encodeDigest(p)); err != nil || got != p {
		t.Fatalf("%v, %v", got, err)
	}
	w := newCluster(t, 1, 1, nil)
	for _, bad := range [][]byte{
		{0}, {0, 1}, encodeDigest(digestPoint{digestEvery + 1, 1}), encodeDigest(digestPoint{}), append(encodeDigest(p), 0),
		encodeDigest(digestPoint{maxIndex, 1}), append([]byte{0, 2}, encodeDigest(p)[2:]...),
	} {
		if err := w.nodes[1].store.Load().Step(0, 2, bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// TestDivergence plants a wrong bit in one replica's state, and in what its commands change: that one stops, for good
// and with evidence, and the others go on and know.
func TestDivergence(t *testing.T) {
	t.Run("state", func(t *testing.T) { testDivergence(t, func(m *toyMachine) { m.mu.state["a"] = "2" }) })
	t.Run("changes", func(t *testing.T) { testDivergence(t, func(m *toyMachine) { m.mu.garble = true }) })
}

func testDivergence(t *testing.T, plant func(*toyMachine)) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	bad := w.leader(0) // whoever leads is not right for that
	m := bad.toy(0)
	m.mu.Lock()
	plant(m)
	m.mu.Unlock()
	var reason error
	for i := 0; reason == nil; i++ {
		w.anywhere(fmt.Sprintf("k%d=%d", i%100, i))
		select {
		case reason = <-bad.fatal:
		default:
			if i > 50*digestEvery {
				t.Fatal("never noticed")
			}
		}
	}
	if !errors.Is(reason, ErrDiverged) || !strings.Contains(reason.Error(), "shard 0") {
		t.Fatalf("reason: %v", reason)
	}
	if err := bad.store.Swap(nil).Close(); !errors.Is(err, ErrDiverged) {
		t.Errorf("close: %v", err)
	}
	w.must(0, "b=1")
	w.converge(1)
	leader := w.leader(0)
	eventually(t, "the leader knows", func() bool {
		return slices.Equal(leader.store.Load().Status()[0].Differ, []uint64{bad.id})
	})

	b, err := readFile(bad.cfg.FS, "/data/"+evidenceFile)
	if err != nil {
		t.Fatal(err)
	}
	var e evidence
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("%016x", bad.id)
	if e.Shard != 0 || e.RaftID != own || e.Index%digestEvery != 0 || e.Index == 0 || len(e.Digests) != 3 || e.LastLogIndex < e.Index || e.JournalBytes == 0 {
		t.Errorf("evidence: %s", b)
	}
	for id, digest := range e.Digests {
		if (digest == e.Digests[own]) != (id == own) {
			t.Errorf("evidence: %s", b)
		}
	}
	// It does not come back with what it has, nor when the evidence was touched.
	for _, change := range []func(vfs.FS){
		func(vfs.FS) {},
		func(fs vfs.FS) { rewrite(t, fs, "/data/"+evidenceFile, []byte("{")) },
	} {
		change(bad.cfg.FS)
		if s, err := Open(bad.cfg); !errors.Is(err, ErrDiverged) {
			if err == nil {
				_ = s.Close()
			}
			t.Fatalf("opened again: %v", err)
		}
	}
}
