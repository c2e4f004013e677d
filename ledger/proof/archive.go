package proof

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// ArchiveFormat is the name in the first line of an archive.
const (
	ArchiveFormat  = "quorate-audit-archive"
	archiveVersion = 1
)

// ArchiveHeader is the first line of an archive: the records First to Last of
// one shard, which journals may lack from then on. Behind it come the lines
// that an export would have of them. Path proves that the shard's log of Last
// records is the beginning of that of Size, which a checkpoint signs (RFC
// 6962, section 2.1.2).
type ArchiveHeader struct {
	Format    string   `json:"format"`
	Version   int      `json:"version"`
	ClusterID string   `json:"cluster_id"`
	Shard     uint32   `json:"shard"`
	First     uint64   `json:"first"`
	Last      uint64   `json:"last"`
	Frontier  []string `json:"frontier"`
	Size      uint64   `json:"size"`
	Path      []string `json:"path"`
}

// NewArchiveHeader begins an archive of the records behind before, up to last.
func NewArchiveHeader(c *Checkpoint, before *Tree, last uint64, head Head, path tlog.TreeProof) ArchiveHeader {
	h := ArchiveHeader{Format: ArchiveFormat, Version: archiveVersion, ClusterID: hex.EncodeToString(c.Cluster[:]), Shard: head.Shard,
		First: before.Size + 1, Last: last, Frontier: []string{}, Size: head.Size, Path: []string{}}
	for _, p := range before.Peaks {
		h.Frontier = append(h.Frontier, hex.EncodeToString(p[:]))
	}
	for _, p := range path {
		h.Path = append(h.Path, hex.EncodeToString(p[:]))
	}
	return h
}

// Append writes the header's line.
func (h *ArchiveHeader) Append(dst []byte) []byte {
	b, err := json.Marshal(h)
	if err != nil {
		panic("proof: header: " + err.Error()) // plain fields always marshal
	}
	return append(append(dst, b...), '\n')
}

func (h *ArchiveHeader) section() Section {
	return Section{Shard: h.Shard, First: h.First, Size: h.Last, Frontier: h.Frontier}
}

// VerifyArchive reads an archive, unpacked, and checks every byte of it
// against the checkpoint that belongs to it, whose signatures were checked
// ([Open]). Its report has one section. The error is a *Fault, or what
// reading r failed with.
func VerifyArchive(r io.Reader, c *Checkpoint) (Report, error) {
	v := verifier{in: bufio.NewReaderSize(r, 64<<10), c: c}
	err := v.archive()
	return v.report, err
}

func (v *verifier) archive() error {
	h, err := v.archiveHeader()
	if err != nil {
		return err
	}
	head, ok := v.c.Head(h.Shard)
	path, perr := parsePath(h.Path)
	s := h.section()
	_, whole := s.tree()
	switch {
	case h.ClusterID != hex.EncodeToString(v.c.Cluster[:]):
		return v.fault(Foreign, 0, "the archive is of cluster %s, the checkpoint of %x", h.ClusterID, v.c.Cluster)
	case !ok || !whole || perr != nil || h.First > h.Last || h.Last > h.Size:
		return v.fault(Altered, 0, "what the header says of shard %d", h.Shard)
	case h.Size != head.Size:
		return v.fault(Foreign, 0, "the archive's proof is to %d records of shard %d, the checkpoint has %d: take the one that belongs to it", h.Size, h.Shard, head.Size)
	}
	v.header.Shards = []Section{s}
	v.report.Cluster, v.report.Shards = h.ClusterID, v.header.Shards
	if err := v.section(&v.header.Shards[0]); err != nil {
		return err
	}
	root := v.lines.Tree.Root()
	if h.Last == head.Size && (root != head.Root || len(path) > 0) || h.Last < head.Size && tlog.CheckTree(path, int64(head.Size), head.Root, int64(h.Last), root) != nil {
		return v.fault(Altered, v.last+1, "records %d to %d are not the ones the checkpoint signs, or the header's frontier or path is altered", h.First, h.Last)
	}
	v.at++
	return v.end()
}

func (v *verifier) archiveHeader() (h ArchiveHeader, err error) {
	b, err := v.next()
	if errors.Is(err, io.EOF) {
		return h, v.fault(Truncated, 0, "the file is empty")
	}
	if err != nil {
		return h, err
	}
	if json.Unmarshal(b, &h) != nil || h.Format != ArchiveFormat || h.Version != archiveVersion || !bytes.Equal(h.Append(nil), b) {
		return h, v.fault(Altered, 0, "the first line is not the header of an audit archive, version %d", archiveVersion)
	}
	return h, nil
}

// Tree is that of the records before the archive's first.
func (h *ArchiveHeader) Tree() (Tree, bool) {
	s := h.section()
	return s.tree()
}
