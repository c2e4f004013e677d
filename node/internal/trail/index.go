package trail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/internal/files"
)

// BlockRecords is how many records a block of the index covers. What is
// newer than the last block is found by reading it: up to as many records.
const BlockRecords = 4096

// Index finds the records of one shard by term, block by block: for each
// block a Bloom filter in memory says whether a term is in it, and the block's
// posting lists on disk say where. It is written a block at a time, behind the
// journal, and can be made again from it.
//
// File: blocks, each: length of head u32, of body u32, CRC32C of head, of
// body u32, head, body; little-endian. Head: first record u64, offset of it in the
// journal and behind the last one u64, least and greatest time i64, words of the filter
// u32, filter. Body: length of each record in the journal (u16 low bits of
// uvarint, see putLengths), count of terms u32, per term hash u64 and end of
// its list u32, the lists: positions in the block as uvarint differences.
type Index struct {
	shard   uint32
	journal Journal
	path    string
	build   sync.Mutex // held by Advance
	mu      struct {
		sync.RWMutex
		file   files.File
		size   int64
		blocks []block
		first  uint64 // record that an index without a block begins at,
		offset int64  // and where that starts
	}
	fs    files.FS
	floor int64 // of the journal, as far as it was seen; under build
}

// block is what memory has of a block: 5 KB, most of it the filter.
type block struct {
	at             int64 // of its body in the file
	length         uint32
	sum            uint32
	first          uint64
	offset, end    int64 // in the journal
	oldest, newest int64
	filter         []uint64
}

// Term is a value of a field that records are looked up by.
type Term uint64

// TermOf hashes a field's value (FNV-1a, 64 bits). Two values with one hash
// cost a look at a record that does not match.
func TermOf(f ledger.Field, value []byte) Term {
	h := uint64(14695981039346656037)
	h = (h ^ uint64(f)) * 1099511628211
	for _, c := range value {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return Term(h)
}

const (
	filterBits     = 10 // a term, with filterProbes 1 % of false answers
	filterProbes   = 4
	blockPrefix    = 16
	blockHeadBytes = 5*8 + 4
	maxBlockBytes  = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrIndex says that an index file is damaged.
var ErrIndex = errors.New("the index is damaged: delete it, it is made anew from the journal")

// OpenIndex opens a shard's index below dir. A last block that a crash cut is
// written again.
func OpenIndex(fs files.FS, dir string, shard uint32, j Journal) (*Index, error) {
	x := &Index{shard: shard, journal: j, fs: fs, path: filepath.Join(dir, fmt.Sprintf("%04d.index", shard))}
	f, err := fs.OpenReadWrite(x.path)
	if err != nil {
		return nil, fmt.Errorf("trail: index: %w", err)
	}
	x.mu.file, x.mu.first = f, 1
	if err := errors.Join(x.load(), x.found()); err != nil {
		f.Close()
		return nil, fmt.Errorf("trail: %s: %w", x.path, err)
	}
	return x, nil
}

func (x *Index) load() error {
	size, err := x.mu.file.Size()
	if err != nil {
		return err
	}
	for x.mu.size < size {
		var p [blockPrefix]byte
		if _, err := x.mu.file.ReadAt(p[:], x.mu.size); err != nil {
			break // cut
		}
		head, body := int64(binary.LittleEndian.Uint32(p[:])), int64(binary.LittleEndian.Uint32(p[4:]))
		end := x.mu.size + blockPrefix + head + body
		if head < blockHeadBytes || head+body > maxBlockBytes || end > size {
			break
		}
		b := make([]byte, head)
		if _, err := x.mu.file.ReadAt(b, x.mu.size+blockPrefix); err != nil {
			return err
		}
		if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(p[8:]) {
			break
		}
		k := block{at: x.mu.size + blockPrefix + head, length: uint32(body), sum: binary.LittleEndian.Uint32(p[12:])}
		k.readHead(b)
		if end == size { // only the last can be half there
			if _, err := x.body(&k); err != nil {
				break
			}
		}
		x.mu.blocks = append(x.mu.blocks, k)
		x.mu.size = end
	}
	return x.mu.file.Truncate(x.mu.size) // what follows is made again
}

func (k *block) readHead(b []byte) {
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	k.first, k.offset, k.end, k.oldest, k.newest = u(0), int64(u(1)), int64(u(2)), int64(u(3)), int64(u(4))
	b = b[blockHeadBytes:]
	k.filter = make([]uint64, len(b)/8)
	for i := range k.filter {
		k.filter[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
}

func (k *block) appendHead(dst []byte) []byte {
	for _, v := range []uint64{k.first, uint64(k.offset), uint64(k.end), uint64(k.oldest), uint64(k.newest)} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(k.filter)))
	for _, w := range k.filter {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return dst
}

func (k *block) add(t Term) {
	for i := range uint64(filterProbes) {
		bit := probe(t, i) % uint64(len(k.filter)*64)
		k.filter[bit/64] |= 1 << (bit % 64)
	}
}

func (k *block) mayHave(t Term) bool {
	for i := range uint64(filterProbes) {
		bit := probe(t, i) % uint64(len(k.filter)*64)
		if k.filter[bit/64]&(1<<(bit%64)) == 0 {
			return false
		}
	}
	return true
}

func probe(t Term, i uint64) uint64 {
	return (uint64(t) + i*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9 >> 7
}

// body reads and checks a block's body.
func (x *Index) body(k *block) ([]byte, error) {
	b := make([]byte, k.length)
	if _, err := x.mu.file.ReadAt(b, k.at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != k.sum {
		return nil, fmt.Errorf("block of record %d: %w", k.first, ErrIndex)
	}
	return b, nil
}

// Advance indexes the next block if the log has size records and so a whole
// one; true means that there may be another.
func (x *Index) Advance(size uint64) (more bool, err error) {
	x.build.Lock()
	defer x.build.Unlock()
	if err := x.found(); err != nil {
		return false, fmt.Errorf("trail: index of shard %d: %w", x.shard, err)
	}
	first, offset := x.Next()
	if size+1 < first+BlockRecords {
		return false, nil
	}
	k := block{first: first, offset: offset, oldest: 1<<63 - 1, newest: -1 << 63}
	lengths := make([]byte, 0, 2*BlockRecords)
	posts := newPostings()
	defer posts.free()
	n := uint16(0)
	var bad error
	err = x.journal.Read(offset, func(at, next int64, b []byte) bool {
		var millis int64
		if millis, bad = ledger.EachTerm(b, func(f ledger.Field, v []byte) {
			posts.add(f, TermOf(f, v), n)
		}); bad != nil {
			return false
		}
		k.oldest, k.newest, k.end = min(k.oldest, millis), max(k.newest, millis), next
		lengths = binary.AppendUvarint(lengths, uint64(next-at))
		n++
		return n < BlockRecords
	})
	if err = errors.Join(err, bad); err != nil {
		return false, fmt.Errorf("trail: index of shard %d: %w", x.shard, err)
	}
	if n < BlockRecords {
		return false, nil // the journal is being replayed
	}
	return true, x.write(&k, lengths, posts)
}

func (x *Index) write(k *block, lengths []byte, posts *postings) error {
	lists := posts.sorted()
	k.filter = make([]uint64, len(lists)*filterBits/64+1)
	body := append(binary.LittleEndian.AppendUint32(nil, uint32(len(lengths))), lengths...)
	body = slices.Grow(binary.LittleEndian.AppendUint32(body, uint32(len(lists))), 12*len(lists))
	var positions []byte
	for _, l := range lists {
		k.add(l.term)
		last := uint16(0)
		for _, p := range l.at {
			positions = binary.AppendUvarint(positions, uint64(p-last))
			last = p
		}
		body = binary.LittleEndian.AppendUint64(body, uint64(l.term))
		body = binary.LittleEndian.AppendUint32(body, uint32(len(positions)))
	}
	body = append(body, positions...)
	head := k.appendHead(nil)
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(head)))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(body)))
	out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(head, castagnoli))
	k.sum, k.length = crc32.Checksum(body, castagnoli), uint32(len(body))
	out = append(append(binary.LittleEndian.AppendUint32(out, k.sum), head...), body...)
	x.mu.Lock()
	defer x.mu.Unlock()
	k.at = x.mu.size + blockPrefix + int64(len(head))
	if _, err := x.mu.file.WriteAt(out, x.mu.size); err != nil {
		return fmt.Errorf("trail: index of shard %d: %w", x.shard, err)
	}
	x.mu.size += int64(len(out))
	x.mu.blocks = append(x.mu.blocks, *k)
	return nil
}

// Next is the first record that no block has, and its offset in the journal.
func (x *Index) Next() (seq uint64, offset int64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.nextLocked()
}

func (x *Index) nextLocked() (seq uint64, offset int64) {
	if n := len(x.mu.blocks); n > 0 {
		k := &x.mu.blocks[n-1]
		return k.first + BlockRecords, k.end
	}
	return x.mu.first, x.mu.offset
}

// Bytes is what the index takes on disk, and in memory.
func (x *Index) Bytes() (disk, memory int64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for i := range x.mu.blocks {
		memory += int64(8*len(x.mu.blocks[i].filter)) + 96
	}
	return x.mu.size, memory
}

// Close closes the file; a block that was not durable is made again.
func (x *Index) Close() error { return x.mu.file.Close() }

// Find calls fn with every record, from one number on, that may have all the
// terms and be of the time from oldest to newest, and its offset in the
// journal, until fn returns false; fn must not call x. Before each block go is asked whether to
// go on; where it says no, next is where to. The records from [Index.Next]
// on are not looked at.
func (x *Index) Find(from uint64, terms []Term, oldest, newest int64, goOn func() bool, fn func(seq uint64, offset int64) bool) (next uint64, err error) {
	x.mu.RLock() // also while blocks are read: trimming exchanges the file
	defer x.mu.RUnlock()
	blocks := x.mu.blocks
	i := 0
	if len(blocks) > 0 && from > blocks[0].first {
		i = int((from - blocks[0].first) / BlockRecords)
	}
	for ; i < len(blocks); i++ {
		k := &blocks[i]
		if k.newest < oldest || k.oldest > newest || slices.ContainsFunc(terms, func(t Term) bool { return !k.mayHave(t) }) {
			continue
		}
		if !goOn() {
			return k.first, nil
		}
		b, err := x.body(k)
		if err != nil {
			return 0, fmt.Errorf("trail: index of shard %d: %w", x.shard, err)
		}
		stopped, err := k.find(b, from, terms, fn)
		if err != nil {
			return 0, fmt.Errorf("trail: index of shard %d: block of record %d: %w", x.shard, k.first, err)
		}
		if stopped {
			return 0, nil
		}
	}
	seq, _ := x.nextLocked()
	return max(seq, from), nil
}

// find walks the positions that all terms have.
func (k *block) find(b []byte, from uint64, terms []Term, fn func(seq uint64, offset int64) bool) (stopped bool, err error) {
	n := int(binary.LittleEndian.Uint32(b))
	lengths, rest := b[4:4+n], b[4+n:]
	count := int(binary.LittleEndian.Uint32(rest))
	table, postings := rest[4:4+12*count], rest[4+12*count:]
	var hits [BlockRecords]uint8
	for _, t := range terms {
		at, ok := searchTerm(table, count, t)
		if !ok {
			return false, nil
		}
		start := uint32(0)
		if at > 0 {
			start = binary.LittleEndian.Uint32(table[12*at-4:])
		}
		list, p := postings[start:binary.LittleEndian.Uint32(table[12*at+8:])], uint64(0)
		for len(list) > 0 {
			d, w := binary.Uvarint(list)
			if w <= 0 || p+d >= BlockRecords {
				return false, ErrIndex
			}
			p, list = p+d, list[w:]
			hits[p]++
		}
	}
	offset := k.offset
	for p := range BlockRecords {
		length, w := binary.Uvarint(lengths)
		if w <= 0 {
			return false, ErrIndex
		}
		lengths = lengths[w:]
		if seq := k.first + uint64(p); seq >= from && int(hits[p]) == len(terms) && !fn(seq, offset) {
			return true, nil
		}
		offset += int64(length)
	}
	return false, nil
}

func searchTerm(table []byte, n int, t Term) (int, bool) {
	lo, hi := 0, n
	for lo < hi {
		mid := (lo + hi) / 2
		if v := Term(binary.LittleEndian.Uint64(table[12*mid:])); v < t {
			lo = mid + 1
		} else if v > t {
			hi = mid
		} else {
			return mid, true
		}
	}
	return 0, false
}
