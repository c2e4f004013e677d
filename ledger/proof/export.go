package proof

import (
	"encoding/hex"
	"encoding/json"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
)

// ExportFormat is the name in an export's first line.
const (
	ExportFormat  = "quorate-audit-export"
	exportVersion = 1
	// MilestoneEvery is after how many records of a shard an export states
	// the root so far: what was altered is found within as many.
	MilestoneEvery = 256
	// MaxLineBytes bounds a line of an export: the canonical bytes in base64
	// (4/3), and the words, where each byte may take six.
	MaxLineBytes = 8 * (ledger.MaxRecordBytes + 4<<10)
)

// Section says which records of a shard an export has: First to Size. What
// was before First is in an archive; Frontier are the peaks of its tree.
type Section struct {
	Shard    uint32   `json:"shard"`
	First    uint64   `json:"first"`
	Size     uint64   `json:"size"`
	Frontier []string `json:"frontier"`
}

// Header is an export's first line.
type Header struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	ClusterID string    `json:"cluster_id"`
	Shards    []Section `json:"shards"`
}

// NewHeader begins an export of the records that a checkpoint covers; before
// has, for shards that do not begin at record 1, the tree of what is gone.
func NewHeader(c *Checkpoint, before map[uint32]Tree) Header {
	h := Header{Format: ExportFormat, Version: exportVersion, ClusterID: hex.EncodeToString(c.Cluster[:]), Shards: []Section{}}
	for _, s := range c.Shards {
		x := Section{Shard: s.Shard, First: 1, Size: s.Size, Frontier: []string{}}
		if t, ok := before[s.Shard]; ok {
			x.First = t.Size + 1
			for _, p := range t.Peaks {
				x.Frontier = append(x.Frontier, hex.EncodeToString(p[:]))
			}
		}
		h.Shards = append(h.Shards, x)
	}
	return h
}

// Append writes the header's line.
func (h *Header) Append(dst []byte) []byte {
	b, err := json.Marshal(h)
	if err != nil {
		panic("proof: header: " + err.Error()) // plain fields always marshal
	}
	return append(append(dst, b...), '\n')
}

// tree is the tree of what comes before the section.
func (s *Section) tree() (Tree, bool) {
	t := Tree{Size: s.First - 1}
	for _, p := range s.Frontier {
		h, err := parseHash(p)
		if err != nil {
			return t, false
		}
		t.Peaks = append(t.Peaks, h)
	}
	return t, s.First >= 1 && t.Size <= s.Size && t.valid()
}

// AppendMilestone writes the line that follows every MilestoneEvery-th record
// of a shard: the root up to it.
func AppendMilestone(dst []byte, shard uint32, t *Tree) []byte {
	l := line{append(dst, `{"root":"`...)}
	h := t.Root()
	l.b = append(hex.AppendEncode(l.b, h[:]), '"')
	l.uint("shard", uint64(shard), true)
	l.uint("size", t.Size, true)
	return append(l.b, '}', '\n')
}

// Lines writes the records of a shard with their milestones.
type Lines struct {
	Shard uint32
	Tree  Tree // of what was written, and what is before it
}

// Append writes a record's lines.
func (x *Lines) Append(dst, body []byte, r *ledger.Record) []byte {
	dst = AppendLine(dst, body, r)
	x.Tree.Append(Leaf(body))
	if x.Tree.Size%MilestoneEvery == 0 {
		dst = AppendMilestone(dst, x.Shard, &x.Tree)
	}
	return dst
}

// RecordFormat and ConsistencyFormat are the names in the two kinds of proof.
const (
	RecordFormat      = "quorate-audit-proof"
	ConsistencyFormat = "quorate-audit-consistency"
)

// RecordProof shows that a record is in the log that a checkpoint signs:
// the audit path of RFC 6962, section 2.1.1, from its leaf to the shard's
// root, lowest first.
type RecordProof struct {
	Format     string          `json:"format"`
	Version    int             `json:"version"`
	Record     json.RawMessage `json:"record"` // its line of an export
	Shard      uint32          `json:"shard"`
	Size       uint64          `json:"size"`
	Path       []string        `json:"path"`
	Checkpoint string          `json:"checkpoint"`
}

// NewRecordProof puts a proof together.
func NewRecordProof(body []byte, r *ledger.Record, size uint64, path tlog.RecordProof, signed []byte) RecordProof {
	l := AppendLine(nil, body, r)
	p := RecordProof{Format: RecordFormat, Version: exportVersion, Record: l[:len(l)-1], Shard: r.Shard, Size: size, Path: []string{}, Checkpoint: string(signed)}
	for _, h := range path {
		p.Path = append(p.Path, hex.EncodeToString(h[:]))
	}
	return p
}

// ConsistencyProof shows that the log of Size records begins with that of
// From (RFC 6962, section 2.1.2).
type ConsistencyProof struct {
	Format   string   `json:"format"`
	Version  int      `json:"version"`
	Shard    uint32   `json:"shard"`
	From     uint64   `json:"from"`
	FromRoot string   `json:"from_root"`
	Size     uint64   `json:"size"`
	Root     string   `json:"root"`
	Path     []string `json:"path"`
}

// NewConsistencyProof puts a proof together.
func NewConsistencyProof(from, to Head, path tlog.TreeProof) ConsistencyProof {
	p := ConsistencyProof{Format: ConsistencyFormat, Version: exportVersion, Shard: to.Shard, From: from.Size, FromRoot: hex.EncodeToString(from.Root[:]),
		Size: to.Size, Root: hex.EncodeToString(to.Root[:]), Path: []string{}}
	for _, h := range path {
		p.Path = append(p.Path, hex.EncodeToString(h[:]))
	}
	return p
}

// Check verifies it between two heads.
func (p *ConsistencyProof) Check(from, to Head) error {
	if from.Size == 0 {
		return nil // everything begins with nothing
	}
	path, err := parsePath(p.Path)
	if err != nil {
		return err
	}
	return tlog.CheckTree(path, int64(to.Size), to.Root, int64(from.Size), from.Root)
}

func parsePath(list []string) ([]tlog.Hash, error) {
	var path []tlog.Hash
	for _, s := range list {
		h, err := parseHash(s)
		if err != nil {
			return nil, err
		}
		path = append(path, h)
	}
	return path, nil
}
