package raftstore

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// segment is a file of a journal. Its name says where it starts, counted from the journal's very beginning, and the
// CRC32C of all that comes before: what is in front of it can be dropped and the rest still be checked.
type segment struct {
	path  string
	start int64
	sum   uint32
	file  vfs.File

	// Under the journal's lock, from here on.
	bytes   int64 // at open
	refs    int   // readers; the last one closes a segment that was let go
	gone    bool
	durable bool // and nothing will be written to it any more
}

// journalName names the first segment. (Journals that were never cut have only this one.)
func journalName(shard uint32) string { return segmentName(shard, journalBase{}) }

func segmentName(shard uint32, at journalBase) string {
	if at.bytes == 0 {
		return fmt.Sprintf("%04d.qj", shard)
	}
	return fmt.Sprintf("%04d-%016x-%08x.qj", shard, at.bytes, at.sum)
}

// parseSegment says where a file of a shard's journal starts; false for other files.
func parseSegment(shard uint32, name string) (at journalBase, ok bool) {
	rest, ok := strings.CutPrefix(name, fmt.Sprintf("%04d", shard))
	if !ok {
		return at, false
	}
	if rest == ".qj" {
		return at, true
	}
	rest, ok = strings.CutSuffix(rest, ".qj")
	f := strings.Split(rest, "-")
	if !ok || len(f) != 3 || f[0] != "" {
		return at, false
	}
	start, err1 := strconv.ParseUint(f[1], 16, 63)
	sum, err2 := strconv.ParseUint(f[2], 16, 32)
	at = journalBase{int64(start), uint32(sum)}
	return at, err1 == nil && err2 == nil && start > 0 && segmentName(shard, at) == name
}

// listSegments lists the files of a shard's journal, by where they start.
func listSegments(fs vfs.FS, dir string, shard uint32) ([]*segment, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	var all []*segment
	for _, name := range names {
		at, ok := parseSegment(shard, name)
		if !ok {
			continue
		}
		s := &segment{path: fs.PathJoin(dir, name), start: at.bytes, sum: at.sum}
		st, err := fs.Stat(s.path)
		if err != nil {
			return nil, err
		}
		s.bytes = st.Size()
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *segment) int { return cmp.Compare(a.start, b.start) })
	return all, nil
}

// extent is what a state checkpoint says of a journal: from floor to size, and whether that is one file.
type extent struct {
	floor journalBase
	size  int64
	whole bool
}

func (c *checkpoint) extent() extent { return extent{c.floor.journalBase, c.journalBytes, c.whole} }

// chain picks the files that make up a journal. What is left over are segments in front of the floor, those that replay
// writes again, and the remains of an installation that a crash interrupted.
func chain(all []*segment, e extent) (used, left []*segment, err error) {
	next := make([]int, len(all)) // the segment that goes on where this one is left; 0: it reaches the end; -1: it does not
	first := -1
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i]
		next[i] = -1
		if s.start > e.size {
			continue
		}
		if s.bytes >= e.size-s.start {
			next[i] = 0
		}
		for k := i + 1; k < len(all) && !e.whole; k++ {
			if all[k].start > s.start && next[k] >= 0 && s.bytes >= all[k].start-s.start {
				next[i] = k
				break
			}
		}
		if s.start == e.floor.bytes && s.sum == e.floor.sum {
			first = i
		}
	}
	if first < 0 || next[first] < 0 {
		return nil, nil, fmt.Errorf("its %d files do not hold bytes %d to %d, which the state checkpoint needs: %w", len(all), e.floor.bytes, e.size, ErrCorrupt)
	}
	for i, at := 0, first; i < len(all); i++ {
		if i == at {
			used, at = append(used, all[i]), next[i]
		} else {
			left = append(left, all[i])
		}
	}
	return used, left, nil
}

// openSegments finds a journal's files; nothing is changed, but that a journal without a byte gets its first file.
func openSegments(fs vfs.FS, dir string, shard uint32, e extent) (used, left []*segment, err error) {
	all, err := listSegments(fs, dir, shard)
	if err != nil {
		return nil, nil, err
	}
	has := slices.ContainsFunc(all, func(s *segment) bool { return s.start == e.floor.bytes && s.sum == e.floor.sum })
	if !has && e.size == e.floor.bytes {
		all = append(all, &segment{path: fs.PathJoin(dir, segmentName(shard, e.floor)), start: e.floor.bytes, sum: e.floor.sum})
		slices.SortFunc(all, func(a, b *segment) int { return cmp.Compare(a.start, b.start) })
	}
	used, left, err = chain(all, e)
	for _, s := range used {
		if err == nil {
			s.file, err = fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, closeSegments(used))
	}
	return used, left, nil
}

func closeSegments(list []*segment) error {
	var errs []error
	for _, s := range list {
		if s.file != nil {
			errs = append(errs, s.file.Close())
			s.file = nil
		}
	}
	return errors.Join(errs...)
}

func removeSegments(fs vfs.FS, list []*segment) error {
	for _, s := range list {
		if err := fs.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// eachSegmentPiece reads a journal's bytes from from to to, piece by piece.
func eachSegmentPiece(list []*segment, from, to int64, fn func([]byte) error) error {
	for i, s := range list {
		end := to
		if i+1 < len(list) {
			end = min(end, list[i+1].start)
		}
		if end <= from {
			continue
		}
		if from < s.start {
			return fmt.Errorf("byte %d of the journal: %w", from, ErrTrimmed)
		}
		if err := eachPiece(s.file, from-s.start, end-s.start, fn); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// letGoLocked closes a segment that is not the journal's any more, or leaves that to its last reader.
func (j *journal) letGoLocked(s *segment) error {
	s.gone = true
	if s.refs > 0 {
		return nil
	}
	return s.file.Close()
}

// pin keeps the files that are there until unpin: a stream reads them, or a snapshot is about to be appended to them.
func (j *journal) pin() (unpin func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.pins++
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.mu.pins--
	}
}

// rollLocked begins the next segment behind what was written. When that fails the present one goes on for a while.
func (j *journal) rollLocked() error {
	at := journalBase{j.mu.size, j.sumLocked()}
	s := &segment{path: j.fs.PathJoin(j.dir, segmentName(j.shard, at)), start: at.bytes, sum: at.sum}
	f, err := j.fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		j.mu.rollAt = j.mu.size + j.segmentBytes/8
		return err
	}
	s.file = f
	j.mu.segs = append(slices.Clone(j.mu.segs), s)
	j.mu.rollAt, j.mu.newFile = j.mu.size+j.segmentBytes, true
	return nil
}
