package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/internal/trail"
	"github.com/quorate/quorate/raftstore"
)

const (
	magic = "QBKP\x01"
	// maxFrame bounds the JSON of a frame: raftstore.MaxShards shards of 1 KiB.
	maxFrame = 4 << 20
	// readAhead is what a stream's reader wants to find, so that nothing behind
	// a stream is swallowed.
	readAhead = 256 << 10
)

// Header says what the file is of.
type Header struct {
	Cluster   string    `json:"cluster"`
	ClusterID string    `json:"cluster_id"`
	Shards    uint32    `json:"shards"`
	Time      time.Time `json:"time"`
}

// Shard is one shard in a backup.
type Shard struct {
	Shard        uint32 `json:"shard"`
	Index        uint64 `json:"applied_index"`
	Term         uint64 `json:"term"`
	Rows         int    `json:"rows"`
	Records      uint64 `json:"ledger_records"`
	LedgerHead   string `json:"ledger_head"` // hex SHA-256 of the chain
	JournalBytes int64  `json:"journal_bytes"`
	Bytes        int64  `json:"bytes"` // of its stream in the file
	SHA256       string `json:"sha256"`
}

// Manifest says what is in the file.
type Manifest struct {
	Header
	Contents []Shard `json:"contents"`
}

// ErrDamaged wraps everything that is wrong with a file's bytes.
var ErrDamaged = errors.New("the backup is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(b, castagnoli))
	_, err = w.Write(append(out, b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("cut short: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("cut short: %w", err)
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return errors.New("checksum mismatch")
	}
	return json.Unmarshal(b, v)
}

// chain recomputes a shard's audit chain as its records pass.
type chain struct {
	shard uint32
	head  ledger.Head
}

func newChain(shard uint32) *chain { return &chain{shard, ledger.NewChain(shard)} }

func (c *chain) add(record []byte) (err error) {
	c.head, _, _, err = ledger.VerifyChain(c.shard, c.head, record)
	return err
}

// begin is where the journal begins.
func (c *chain) begin(note []byte) (err error) {
	_, c.head, _, err = trail.ReadFloor(c.shard, note)
	return err
}

func (c *chain) sight() raftstore.JournalSight {
	return raftstore.JournalSight{Floor: c.begin, Record: c.add}
}

func (c *chain) describe(info raftstore.SeedInfo) Shard {
	return Shard{Shard: info.Shard, Index: info.Index, Term: info.Term, Rows: info.Keys, Records: c.head.Seq,
		LedgerHead: hex.EncodeToString(c.head.Hash[:]), JournalBytes: info.JournalBytes}
}

// Reader reads a file from front to back.
type Reader struct {
	Header Header
	f      *os.File
	in     tally
	r      *bufio.Reader
	next   uint32
	seen   []Shard
}

// tally counts what was read.
type tally struct {
	r io.Reader
	n int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	return n, err
}

// Open opens a file and reads its header.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	r := &Reader{f: f, in: tally{r: f}}
	r.r = bufio.NewReaderSize(&r.in, readAhead)
	b := make([]byte, len(magic))
	if _, err = io.ReadFull(r.r, b); err == nil && string(b) != magic {
		err = errors.New("not a backup of a known version")
	}
	if err == nil {
		err = readFrame(r.r, &r.Header)
	}
	if err == nil && (r.Header.Shards == 0 || r.Header.Shards > raftstore.MaxShards) {
		err = fmt.Errorf("%d shards", r.Header.Shards)
	}
	if err != nil {
		return nil, errors.Join(r.damaged("header", err), f.Close())
	}
	return r, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.f.Close() }

// at is the offset of the next byte.
func (r *Reader) at() int64 { return r.in.n - int64(r.r.Buffered()) }

func (r *Reader) damaged(what string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	return fmt.Errorf("backup: %s: %s, about byte %d: %w: %w", r.f.Name(), what, r.at(), ErrDamaged, err)
}

// Shard gives the next shard's stream to use, which reads it to its end and
// lets every record of its journal through audit.
func (r *Reader) Shard(use func(shard uint32, stream *bufio.Reader, audit raftstore.JournalSight) (raftstore.SeedInfo, error)) error {
	sum, c := sha256.New(), newChain(r.next)
	n, err := readLength(r.r)
	var info raftstore.SeedInfo
	if err == nil {
		stream := io.LimitedReader{R: r.r, N: n}
		through := bufio.NewReaderSize(io.TeeReader(&stream, sum), readAhead)
		info, err = use(r.next, through, c.sight())
		if _, more := through.ReadByte(); err == nil && !errors.Is(more, io.EOF) {
			err = errors.New("the stream is longer than its contents")
		}
		if err == nil && stream.N > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	if err == nil && info.Shard != r.next {
		err = fmt.Errorf("it is shard %d's", info.Shard)
	}
	if err != nil {
		return r.damaged(fmt.Sprintf("shard %d", r.next), err)
	}
	x := c.describe(info)
	x.Bytes, x.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	r.seen = append(r.seen, x)
	r.next++
	return nil
}

const lengthBytes = 8 + 4

func appendLength(dst []byte, n int64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(n))
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[len(dst)-8:], castagnoli))
}

func readLength(r io.Reader) (int64, error) {
	var b [lengthBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("cut short: %w", err)
	}
	n := int64(binary.LittleEndian.Uint64(b[:]))
	if crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) || n < 0 {
		return 0, errors.New("checksum mismatch")
	}
	return n, nil
}

// Finish reads the manifest, which must say what was read, and the file's end.
func (r *Reader) Finish() (Manifest, error) {
	var m Manifest
	if err := readFrame(r.r, &m); err != nil {
		return m, r.damaged("manifest", err)
	}
	if m.Header != r.Header || len(m.Contents) != len(r.seen) {
		return m, r.damaged("manifest", errors.New("it is another backup's"))
	}
	for i, x := range r.seen {
		if m.Contents[i] != x {
			return m, r.damaged("manifest", fmt.Errorf("shard %d is not what it says: %+v, not %+v", i, x, m.Contents[i]))
		}
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		return m, r.damaged("manifest", errors.New("something follows it"))
	}
	return m, nil
}

// Check reads a whole file and verifies all of it.
func Check(path string) (Manifest, error) {
	r, err := Open(path)
	if err != nil {
		return Manifest{}, err
	}
	defer r.Close()
	for range r.Header.Shards {
		err := r.Shard(func(shard uint32, stream *bufio.Reader, audit raftstore.JournalSight) (raftstore.SeedInfo, error) {
			return raftstore.CheckStream(stream, audit)
		})
		if err != nil {
			return Manifest{}, err
		}
	}
	return r.Finish()
}
