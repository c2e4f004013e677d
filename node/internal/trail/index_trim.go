package trail

import (
	"errors"
	"fmt"
)

// found lets go of the blocks that are all in front of the journal's
// beginning; an index that ends before it begins anew there.
func (x *Index) found() error {
	start, note := x.journal.Floor()
	if start <= x.floor {
		return nil
	}
	f, _, _, err := ReadFloor(x.shard, note)
	if err != nil {
		return err
	}
	x.mu.RLock()
	n := 0
	for n < len(x.mu.blocks) && x.mu.blocks[n].first+BlockRecords <= f.Records+1 {
		n++
	}
	left := n < len(x.mu.blocks)
	from, size := int64(0), x.mu.size
	if left {
		k := &x.mu.blocks[n]
		from = k.at - int64(blockPrefix+blockHeadBytes+8*len(k.filter))
	}
	_, end := x.nextLocked()
	x.mu.RUnlock()
	switch {
	case !left && end <= start:
		err = x.anew(f.Records+1, start)
	case left && 2*from >= size: // or it is not worth the copying yet
		err = x.dropBlocks(n, from)
	}
	if err == nil {
		x.floor = start
	}
	return err
}

// anew empties the index.
func (x *Index) anew(first uint64, offset int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.size > 0 {
		if err := x.mu.file.Truncate(0); err != nil {
			return err
		}
	}
	x.mu.size, x.mu.blocks, x.mu.first, x.mu.offset = 0, nil, first, offset
	return nil
}

// dropBlocks copies the file without its first n blocks, which end at from. The
// copy takes the file's place: a crash leaves one of the two.
func (x *Index) dropBlocks(n int, from int64) error {
	tmp := x.path + ".new"
	f, err := x.fs.OpenReadWrite(tmp)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	x.mu.RLock()
	size := x.mu.size // only Advance, which calls this, makes it larger
	err = f.Truncate(0)
	for at := from; at < size && err == nil; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), size-at)]
		if _, err = x.mu.file.ReadAt(b, at); err == nil {
			_, err = f.WriteAt(b, at-from)
		}
	}
	x.mu.RUnlock()
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = x.fs.Rename(tmp, x.path)
	}
	if err == nil {
		f, err = x.fs.OpenReadWrite(x.path)
	}
	if err != nil {
		return fmt.Errorf("without its first %d blocks: %w", n, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.mu.file
	blocks := append([]block(nil), x.mu.blocks[n:]...)
	for i := range blocks {
		blocks[i].at -= from
	}
	x.mu.file, x.mu.blocks, x.mu.size = f, blocks, size-from
	return old.Close()
}
