package proof

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
)

// Kind is what is wrong with an export.
type Kind string

// The kinds.
const (
	Altered   Kind = "altered"
	Missing   Kind = "missing"
	Reordered Kind = "reordered"
	Truncated Kind = "truncated"
	Foreign   Kind = "foreign"
)

// Fault is the first thing that is wrong with an export.
type Fault struct {
	Kind   Kind
	Line   int // 1 is the header
	Shard  uint32
	Seq    uint64 // 0: not a record
	Reason string
}

func (f *Fault) Error() string {
	if f.Seq == 0 {
		return fmt.Sprintf("%s: line %d: %s", f.Kind, f.Line, f.Reason)
	}
	return fmt.Sprintf("%s: shard %d record %d (line %d): %s", f.Kind, f.Shard, f.Seq, f.Line, f.Reason)
}

// Report is what was verified.
type Report struct {
	Cluster string
	Records uint64
	Shards  []Section
}

// Verify reads an export and checks every byte of it against a checkpoint
// whose signatures were checked ([Open]). It needs memory for one line. The
// error is a *Fault, or what reading r failed with.
func Verify(r io.Reader, c *Checkpoint) (Report, error) {
	v := verifier{in: bufio.NewReaderSize(r, 64<<10), c: c}
	err := v.run()
	return v.report, err
}

type verifier struct {
	in     *bufio.Reader
	c      *Checkpoint
	report Report
	lineNo int
	long   []byte
	header Header
	at     int // the section being read
	lines  Lines
	due    bool // a milestone comes next
	last   uint64
	buf    []byte
	body   []byte
}

func (v *verifier) fault(kind Kind, seq uint64, format string, args ...any) error {
	f := &Fault{Kind: kind, Line: v.lineNo, Seq: seq, Reason: fmt.Sprintf(format, args...)}
	if v.at < len(v.header.Shards) {
		f.Shard = v.header.Shards[v.at].Shard
	}
	return f
}

func (v *verifier) run() error {
	if err := v.readHeader(); err != nil {
		return err
	}
	for v.at < len(v.header.Shards) {
		s := &v.header.Shards[v.at]
		if err := v.section(s); err != nil {
			return err
		}
		head, _ := v.c.Head(s.Shard)
		if v.lines.Tree.Root() != head.Root {
			return v.fault(Altered, v.last+1, "records %d to %d do not give the root in the checkpoint; if earlier milestones were forged as well, what was altered stands before", v.last+1, s.Size)
		}
		v.at++
	}
	return v.end()
}

// section takes the lines of a shard.
func (v *verifier) section(s *Section) error {
	v.lines.Shard = s.Shard
	v.lines.Tree, _ = s.tree()
	v.last, v.due = s.First-1, false
	for v.lines.Tree.Size < s.Size || v.due {
		if err := v.step(s); err != nil {
			return err
		}
	}
	return nil
}

// end refuses what stands behind the last section.
func (v *verifier) end() error {
	b, err := v.next()
	if err == nil {
		if body, rec := v.decode(b); rec != nil {
			_ = body
			return v.fault(Altered, 0, "record %d of shard %d stands behind the end that the checkpoint signs", rec.Seq, rec.Shard)
		}
		return v.fault(Altered, 0, "something stands behind the end")
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// next is the next line with its line feed; io.EOF at the end.
func (v *verifier) next() ([]byte, error) {
	v.lineNo++
	b, err := v.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		v.long = append(v.long[:0], b...)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(v.long) > MaxLineBytes {
				return nil, v.fault(Altered, v.expected(), "the line is over %d bytes", MaxLineBytes)
			}
			b, err = v.in.ReadSlice('\n')
			v.long = append(v.long, b...)
		}
		b = v.long
	}
	if errors.Is(err, io.EOF) && len(b) > 0 {
		return nil, v.fault(Truncated, v.expected(), "the last line is cut off, or its line feed is altered")
	}
	return b, err
}

func (v *verifier) expected() uint64 {
	if v.at >= len(v.header.Shards) {
		return 0
	}
	return v.lines.Tree.Size + 1
}

func (v *verifier) readHeader() error {
	b, err := v.next()
	if errors.Is(err, io.EOF) {
		return v.fault(Truncated, 0, "the file is empty")
	}
	if err != nil {
		return err
	}
	h := Header{}
	if json.Unmarshal(b, &h) != nil || h.Format != ExportFormat || h.Version != exportVersion || !bytes.Equal(h.Append(nil), b) {
		return v.fault(Altered, 0, "the first line is not the header of an audit export, version %d", exportVersion)
	}
	v.report.Cluster = h.ClusterID
	if h.ClusterID != hex.EncodeToString(v.c.Cluster[:]) {
		return v.fault(Foreign, 0, "the export is of cluster %s, the checkpoint of %x", h.ClusterID, v.c.Cluster)
	}
	if len(h.Shards) != len(v.c.Shards) {
		return v.fault(Altered, 0, "the header has %d shards, the checkpoint %d", len(h.Shards), len(v.c.Shards))
	}
	for i := range h.Shards {
		s, head := &h.Shards[i], v.c.Shards[i]
		_, ok := s.tree()
		switch {
		case s.Shard != head.Shard || !ok:
			return v.fault(Altered, 0, "what the header says of shard %d", s.Shard)
		case s.Size < head.Size:
			return v.fault(Truncated, 0, "shard %d ends at record %d, the checkpoint signs %d: it is of a later time, or records were cut off", s.Shard, s.Size, head.Size)
		case s.Size > head.Size:
			return v.fault(Altered, 0, "shard %d ends at record %d, the checkpoint signs only %d: take the checkpoint that belongs to the export", s.Shard, s.Size, head.Size)
		}
	}
	v.header, v.report.Shards = h, h.Shards
	return nil
}

// step takes the next line of a section.
func (v *verifier) step(s *Section) error {
	b, err := v.next()
	if errors.Is(err, io.EOF) {
		return v.fault(Truncated, v.expected(), "the file ends before it; the checkpoint signs %d records", s.Size)
	}
	if err != nil {
		return err
	}
	if v.due {
		v.buf = AppendMilestone(v.buf[:0], s.Shard, &v.lines.Tree)
		if !bytes.Equal(v.buf, b) {
			return v.fault(Altered, v.last+1, "records %d to %d do not give the root that is stated behind them", v.last+1, v.lines.Tree.Size)
		}
		v.due, v.last = false, v.lines.Tree.Size
		return nil
	}
	body, rec := v.decode(b)
	if rec == nil && bytes.HasPrefix(b, []byte(`{"root":"`)) {
		return v.fault(Missing, v.expected(), "the root of the records before stands in its place")
	}
	if rec == nil {
		return v.fault(Altered, v.expected(), "the line is not what an intact record gives")
	}
	if rec.Shard != s.Shard || rec.Seq != v.expected() {
		return v.misplaced(s, rec)
	}
	v.lines.Tree.Append(Leaf(body))
	v.report.Records++
	v.due = v.lines.Tree.Size%MilestoneEvery == 0
	return nil
}

const lineStart = `{"bytes":"`

// decode reads a record's line; nil when the line is not the one its bytes
// give.
func (v *verifier) decode(b []byte) ([]byte, *ledger.Record) {
	if !bytes.HasPrefix(b, []byte(lineStart)) {
		return nil, nil
	}
	end := bytes.IndexByte(b[len(lineStart):], '"')
	if end < 0 {
		return nil, nil
	}
	var err error
	if v.body, err = base64.StdEncoding.AppendDecode(v.body[:0], b[len(lineStart):len(lineStart)+end]); err != nil {
		return nil, nil
	}
	rec, err := ledger.DecodeRecord(v.body)
	if err != nil {
		return nil, nil
	}
	if v.buf = AppendLine(v.buf[:0], v.body, rec); !bytes.Equal(v.buf, b) {
		return nil, nil
	}
	return v.body, rec
}

// misplaced says what a record that stands where another belongs means: the
// other comes later, or not at all.
func (v *verifier) misplaced(s *Section, rec *ledger.Record) error {
	shard, seq := rec.Shard, rec.Seq
	known := false
	for i := range v.header.Shards {
		known = known || v.header.Shards[i].Shard == shard && seq <= v.header.Shards[i].Size
	}
	want := v.expected()
	here := v.fault(Foreign, want, "record %d of shard %d stands in its place", seq, shard).(*Fault)
	switch {
	case !known:
		return here
	case shard < s.Shard || shard == s.Shard && seq < want:
		here.Kind = Reordered
		return here
	}
	here.Kind = Missing
	for { // the rest of the file
		b, err := v.next()
		if err != nil {
			return here
		}
		if _, x := v.decode(b); x != nil && x.Shard == s.Shard && x.Seq == want {
			here.Kind = Reordered
			here.Reason += fmt.Sprintf(", it stands in line %d", v.lineNo)
			return here
		}
	}
}

// VerifyRecord checks a record's proof with the given keys. A signed
// checkpoint from elsewhere stands in for the one the proof carries.
func VerifyRecord(b, signed []byte, keys []string, need int) (*ledger.Record, Signed, error) {
	var p RecordProof
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Format != RecordFormat || p.Version != exportVersion {
		return nil, Signed{}, fmt.Errorf("not a record's proof, version %d: %w", exportVersion, errors.Join(err))
	}
	if signed == nil {
		signed = []byte(p.Checkpoint)
	}
	c, err := Open(signed, keys, need)
	if err != nil {
		return nil, c, err
	}
	var v verifier
	body, rec := v.decode(append(bytes.Clone(p.Record), '\n'))
	if rec == nil {
		return nil, c, &Fault{Kind: Altered, Reason: "the record is not what its bytes give"}
	}
	head, ok := c.Head(rec.Shard)
	path, err := parsePath(p.Path)
	if !ok || rec.Shard != p.Shard || head.Size != p.Size || rec.Seq == 0 || rec.Seq > head.Size {
		return nil, c, &Fault{Kind: Foreign, Shard: rec.Shard, Seq: rec.Seq, Reason: "the proof is not to the shard's head in the checkpoint"}
	}
	if err == nil {
		err = tlog.CheckRecord(path, int64(head.Size), head.Root, int64(rec.Seq-1), Leaf(body))
	}
	if err != nil {
		return nil, c, &Fault{Kind: Altered, Shard: rec.Shard, Seq: rec.Seq, Reason: "record and proof do not give the root in the checkpoint"}
	}
	return rec, c, nil
}
