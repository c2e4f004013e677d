package raftstore

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// stateFiles opens a store of its own and returns its state database.
func stateFiles(t *testing.T) *stateDB {
	w := newCluster(t, 1, 1, nil)
	for _, n := range w.nodes {
		return n.store.Load().state
	}
	return nil
}

// TestRowsInTimeOrderAreNotMerged: rows whose keys grow go to the lowest level at once and stay there, whatever comes in
// the same checkpoints: rows of another kind in no order, a few late ones, deletions of old ones.
func TestRowsInTimeOrderAreNotMerged(t *testing.T) {
	const shard, rounds, perRound, lateOnes = 7, 8, 2000, 20
	d := stateFiles(t)
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string]byte{}
	timed := func(at uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, at) }
	for round := range uint64(rounds) {
		var ch Changes
		put := func(key []byte) {
			value := make([]byte, 200)
			value[0] = byte(round + 1)
			want[string(key)] = value[0]
			ch.Puts = append(ch.Puts, KV{key, value})
		}
		for i := range uint64(perRound) {
			put(timed(10 * (round*perRound + i)))
			put(binary.BigEndian.AppendUint64([]byte{'k'}, rng.Uint64()))
			if round > 0 && i < lateOnes {
				put(timed(10*(round*perRound-i) - 5))
			}
			if round > 2 && i < lateOnes {
				ch.Deletes = append(ch.Deletes, timed(10*(round-3)*perRound+10*i))
				delete(want, string(ch.Deletes[len(ch.Deletes)-1]))
			}
		}
		c := checkpoint{index: round + 1, term: 1, conf: &pb.ConfState{}}
		if err := d.write(fmt.Sprint("x", round), []*stateWrite{{shard: shard, changes: ch, c: c}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	lowest := d.db.Metrics().Levels[6]
	// Of each checkpoint but the first two seven eighths, if nothing else; the rest of the rows are in random order or
	// among late ones.
	if least := uint64(rounds-2) * perRound * 200 * (lateShare - 1) / lateShare; lowest.TableBytesIngested < least {
		t.Errorf("%d B went to the lowest level, want %d at least", lowest.TableBytesIngested, least)
	}
	got := 0
	err := stateReader{d, shard}.Scan(nil, nil, func(key, value []byte) bool {
		got++
		if want[string(key)] != value[0] {
			t.Fatalf("%x: of round %d, want %d", key, value[0], want[string(key)])
		}
		return true
	})
	if err != nil || got != len(want) {
		t.Fatalf("%d rows, want %d; %v", got, len(want), err)
	}
	if c, ok, err := d.checkpoint(shard); err != nil || !ok || c.index != rounds {
		t.Fatalf("%+v %v %v", c, ok, err)
	}
}

// TestTops: where tables begin.
func TestTops(t *testing.T) {
	rows := func(kind byte, from, n, size int) (puts []KV) {
		for i := range n {
			puts = append(puts, KV{binary.BigEndian.AppendUint32([]byte{kind}, uint32(from+i)), make([]byte, size)})
		}
		return puts
	}
	m := tops{}
	for _, c := range []struct {
		puts []KV
		want string
	}{
		{rows('a', 0, 1000, 10), "[]"}, // too little
		{append(rows('a', 0, 10, 10), rows('b', 0, 800, 1000)...), "[10]"},
		{rows('b', 800, 800, 1000), "[0 0 700]"},
		{rows('b', 1580, 820, 1000), "[0 20 720]"},
		{rows('b', 100, 800, 1000), "[0]"}, // all late: they may go on from here
		{rows('b', 900, 800, 1000), "[0 0 700]"},
	} {
		if got := fmt.Sprint(m.starts(1, c.puts)); got != c.want {
			t.Errorf("%d rows: %s, want %s", len(c.puts), got, c.want)
		}
	}
}
