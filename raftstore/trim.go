package raftstore

import (
	"errors"
	"fmt"
	"slices"
)

// TrimJournal gives up a shard's journal in front of offset, where one of its files begins (JournalFiles). The files are
// deleted after a state checkpoint that says so; snapshots and backups begin there from then on, and have the note,
// which says what their receiver must know of what is gone. What must not be lost has to be elsewhere before.
func (s *Store) TrimJournal(shard uint32, offset int64, note []byte) error {
	sh := s.shard(shard)
	if sh == nil {
		return fmt.Errorf("raftstore: shard %d: %w", shard, ErrNoShard)
	}
	if err := sh.journal.trim(offset, note); err != nil {
		return fmt.Errorf("raftstore: shard %d: journal: %w", shard, err)
	}
	return nil
}

// JournalFloor is where a shard's journal begins, 0 unless it was trimmed, and the note on what was before.
func (s *Store) JournalFloor(shard uint32) (start int64, note []byte) {
	if sh := s.shard(shard); sh != nil {
		f := sh.journal.beginning()
		return f.bytes, f.note
	}
	return 0, nil
}

// JournalFiles is where the files of a shard's journal begin, ascending.
func (s *Store) JournalFiles(shard uint32) []int64 {
	if sh := s.shard(shard); sh != nil {
		return sh.journal.starts()
	}
	return nil
}

// CutJournal has a new file of a shard's journal begin here, so that TrimJournal may give up to this point one day.
func (s *Store) CutJournal(shard uint32) error {
	sh := s.shard(shard)
	if sh == nil {
		return fmt.Errorf("raftstore: shard %d: %w", shard, ErrNoShard)
	}
	if err := sh.journal.roll(); err != nil {
		return fmt.Errorf("raftstore: shard %d: journal: %w", shard, err)
	}
	return nil
}

// maxFloorNote bounds what TrimJournal's caller wants kept of what goes.
const maxFloorNote = 16 << 10

// journalFloor is where a journal begins, and what its owner wants known of what was before.
type journalFloor struct {
	journalBase
	note []byte
}

// trim gives up the journal before a segment's first byte: it is deleted once a state checkpoint says that the journal
// begins there. Any goroutine.
func (j *journal) trim(offset int64, note []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case offset <= j.mu.floor.bytes:
		return nil // as far or further already
	case len(note) > maxFloorNote:
		return fmt.Errorf("a note of %d bytes, at most %d", len(note), maxFloorNote)
	}
	for _, s := range j.mu.segs {
		if s.start == offset {
			j.mu.floor = journalFloor{journalBase{s.start, s.sum}, slices.Clone(note)}
			return nil
		}
	}
	return fmt.Errorf("no file begins at %d", offset)
}

// wantedFloor is where the journal begins as of the next state checkpoint.
func (j *journal) wantedFloor() journalFloor {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.floor
}

// beginning is where the journal begins as of the last state checkpoint.
func (j *journal) beginning() journalFloor {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.kept
}

// trimmed says that a state checkpoint has to tell where the journal begins by now, or has files to delete.
func (j *journal) trimmed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.floor.bytes != j.mu.kept.bytes || j.mu.pins == 0 && len(j.mu.segs) > 1 && j.mu.segs[1].start <= j.mu.kept.bytes
}

// starts are where the files begin.
func (j *journal) starts() []int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make([]int64, len(j.mu.segs))
	for i, s := range j.mu.segs {
		list[i] = s.start
	}
	return list
}

// dropAtOnce is how many files a state checkpoint deletes at most: applying waits for it. The next one goes on.
const dropAtOnce = 4

// drop deletes what is in front of the floor of the state checkpoint that was just written, unless somebody reads it.
// The shard goroutine's alone: an installation may bring files of the same names.
func (j *journal) drop(floor journalFloor) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.kept = floor
	var errs []error
	for n := 0; n < dropAtOnce && j.mu.pins == 0 && !j.mu.closed && len(j.mu.segs) > 1 && j.mu.segs[1].start <= floor.bytes; n++ {
		s := j.mu.segs[0]
		j.mu.segs = slices.Clone(j.mu.segs[1:])
		errs = append(errs, j.letGoLocked(s), removeSegments(j.fs, []*segment{s}))
	}
	return errors.Join(errs...)
}

// roll ends the present file, so that it can be trimmed some day; an empty one goes on. Any goroutine.
func (j *journal) roll() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.readableLocked(); err != nil {
		return err
	}
	if j.mu.size == j.mu.segs[len(j.mu.segs)-1].start {
		return nil
	}
	return j.rollLocked()
}
