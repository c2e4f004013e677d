package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Which replicas a directory holds. A store that only ever knew Bootstrap has the number of its shards under 'n'; from
// the first Create or Drop on, 'p' lists them: version u8, shard u32 each.
const presentVersion = 1

var presentKey = []byte{'p'}

// readPresent finds the shards of the directory; known is false when there never were any.
func (d *disk) readPresent() (ids []uint32, known bool, err error) {
	v, closer, err := d.logDB.Get(presentKey)
	if err == nil {
		defer closer.Close()
		if len(v) == 0 || v[0] != presentVersion {
			return nil, false, fmt.Errorf("list of shards of a version that is not known")
		}
		for v = v[1:]; len(v) >= 4; v = v[4:] {
			ids = append(ids, binary.LittleEndian.Uint32(v))
		}
		if len(v) != 0 || !slices.IsSorted(ids) {
			return nil, false, fmt.Errorf("list of shards: %w", ErrCorrupt)
		}
		return ids, true, nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return nil, false, err
	}
	n, closer, err := d.logDB.Get(shardCountKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closer.Close()
	if len(n) != 4 {
		return nil, false, fmt.Errorf("shard count: %w", ErrCorrupt)
	}
	return firstShards(binary.LittleEndian.Uint32(n)), true, nil
}

func firstShards(n uint32) []uint32 {
	ids := make([]uint32, n)
	for i := range ids {
		ids[i] = uint32(i)
	}
	return ids
}

func presentValue(ids []uint32) []byte {
	v := []byte{presentVersion}
	for _, id := range ids {
		v = binary.LittleEndian.AppendUint32(v, id)
	}
	return v
}

// create makes a replica at the shard's very beginning. The state comes first, the log last: before that nothing
// refers to it. Leftovers of a replica that was put away are cleared.
func (d *disk) create(id uint32, founders []uint64) error {
	if err := d.clearState(id); err != nil {
		return err
	}
	tomb, found, err := readU64s(d.logDB, logKey(id, 'd'), 3)
	if err != nil {
		return err
	}
	term, vote := uint64(bootTerm), uint64(0)
	if found {
		term, vote = max(term, tomb[0]), tomb[1]
	} else if slices.Contains(founders, d.cfg.RaftID) {
		return fmt.Errorf("this process founded the shard and its replica is gone: what it promised is not known: %w", ErrCorrupt)
	}
	c := checkpoint{index: bootIndex, term: bootTerm, conf: &pb.ConfState{Voters: founders}}
	if err := d.state.write(fmt.Sprintf("create-%d", id), []*stateWrite{{shard: id, c: c}}, nil); err != nil {
		return err
	}
	present := append(slices.Clone(d.present), id)
	slices.Sort(present)
	b := d.logDB.NewBatch()
	defer b.Close()
	err = errors.Join(
		b.DeleteRange(logKey(id, 'e'), logKey(id, 'e'+1), nil),
		b.Set(logKey(id, 'h'), u64s(term, vote, bootIndex), nil),
		b.Set(logKey(id, 't'), u64s(bootIndex, bootTerm), nil),
		b.Set(presentKey, presentValue(present), nil),
		d.logDB.Apply(b, pebble.Sync))
	if err != nil {
		return err
	}
	d.present, d.known = present, true
	d.marks.raise(id, mark{term, vote, bootIndex})
	return d.marks.flush()
}

// putAway deletes a replica. What it promised is remembered in the same write that makes it gone.
func (d *disk) putAway(l *shardLog) error {
	present := slices.DeleteFunc(slices.Clone(d.present), func(id uint32) bool { return id == l.shard })
	if err := d.marks.forget(l.shard); err != nil {
		return err
	}
	b := d.logDB.NewBatch()
	defer b.Close()
	err := errors.Join(
		b.DeleteRange(logKey(l.shard, 'e'), logKey(l.shard, 'e'+1), nil),
		b.Delete(logKey(l.shard, 'h'), nil),
		b.Delete(logKey(l.shard, 's'), nil),
		b.Delete(logKey(l.shard, 't'), nil),
		b.Set(logKey(l.shard, 'd'), u64s(l.hard.GetTerm(), l.hard.GetVote(), max(l.last, l.silentUntil)), nil),
		b.Set(presentKey, presentValue(present), nil),
		d.logDB.Apply(b, pebble.Sync))
	if err != nil {
		return err
	}
	d.present = present
	return d.clearState(l.shard)
}

// clearState deletes the state of a shard that is not here and moves its journal away.
func (d *disk) clearState(id uint32) error {
	err := d.state.db.Excise(context.Background(), pebble.KeyRange{Start: shardPrefix(id), End: shardPrefix(id + 1)})
	if err != nil {
		return err
	}
	all, err := listSegments(d.fs, d.path("journal"), id)
	if err != nil || len(all) == 0 {
		return err
	}
	dir := d.path("removed")
	if err := d.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range all {
		if err := d.moveAway(s.path, dir); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(d.fs, dir), syncDir(d.fs, d.path("journal")), syncDir(d.fs, d.cfg.Dir))
}

// moveAway moves a file below dir, under a name that is free: the same shard may come and go more than once.
func (d *disk) moveAway(from, dir string) error {
	for n := 0; ; n++ {
		to := d.fs.PathJoin(dir, fmt.Sprintf("%s.%d", d.fs.PathBase(from), n))
		if _, err := d.fs.Stat(to); errors.Is(err, os.ErrNotExist) {
			return d.fs.Rename(from, to)
		} else if err != nil {
			return err
		}
	}
}
