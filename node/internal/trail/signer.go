package trail

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/internal/files"
)

// Signer has the node's key, and remembers on disk what it signed last.
type Signer struct {
	cluster [16]byte
	fs      files.FS
	dir     string
	key     string // the public one, in note's text form
	signer  note.Signer
	mu      struct {
		sync.Mutex
		last map[uint32]proof.Head
	}
}

// ErrInconsistent says that a checkpoint is not of the log that was signed
// before.
var ErrInconsistent = errors.New("the checkpoint is not of the log this node signed before")

// lastHead is a Head as it stands in the file "signed".
type lastHead struct {
	Shard uint32 `json:"shard"`
	Size  uint64 `json:"size"`
	Root  []byte `json:"root"`
}

// OpenSigner reads the node's key below dir, or makes one at the first start.
// A name is the node's ID; what a note's name can't have is replaced.
func OpenSigner(fs files.FS, dir, nodeID string, raftID uint64, cluster [16]byte) (*Signer, error) {
	s := &Signer{cluster: cluster, fs: fs, dir: dir}
	s.mu.last = map[uint32]proof.Head{}
	path := filepath.Join(dir, "key")
	b, err := fs.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		if b, err = newKey(nodeID, raftID); err == nil {
			err = fs.Replace(path, b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("trail: key: %w", err)
	}
	private, public, ok := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if !ok {
		return nil, fmt.Errorf("trail: key: %s is damaged: a lost key is replaced when the file is removed, old signatures stay good", path)
	}
	if s.signer, err = note.NewSigner(private); err != nil {
		return nil, fmt.Errorf("trail: key: %s: %w", path, err)
	}
	s.key = public
	if v, err := note.NewVerifier(public); err != nil || v.KeyHash() != s.signer.KeyHash() || v.Name() != s.signer.Name() {
		return nil, fmt.Errorf("trail: key: %s: its two halves do not belong together", path)
	}
	return s, s.readLast()
}

func newKey(nodeID string, raftID uint64) ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	clean := strings.Map(func(r rune) rune {
		if r == '+' || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return '-'
		}
		return r
	}, nodeID)
	vkey, err := note.NewEd25519VerifierKey(fmt.Sprintf("%s.%016x", clean, raftID), public)
	if err != nil {
		return nil, err
	}
	parts := strings.SplitN(vkey, "+", 3) // name, id, key
	head := parts[0] + "+" + parts[1]
	seed := base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...))
	return []byte("PRIVATE+KEY+" + head + "+" + seed + "\n" + vkey + "\n"), nil
}

// Key is the public key: name+id+key.
func (s *Signer) Key() string { return s.key }

func (s *Signer) readLast() error {
	path := filepath.Join(s.dir, "signed")
	b, err := s.fs.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var list []lastHead
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return fmt.Errorf("trail: what was signed last: %s: %w", path, err)
	}
	for _, h := range list {
		if len(h.Root) != tlog.HashSize {
			return fmt.Errorf("trail: what was signed last: %s is damaged", path)
		}
		s.mu.last[h.Shard] = proof.Head{Shard: h.Shard, Size: h.Size, Root: tlog.Hash(h.Root)}
	}
	return nil
}

// Last is what was signed of each shard, the furthest.
func (s *Signer) Last() []proof.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.LastLocked()
}

// LastLocked is Last for an [Agrees], which Sign calls.
func (s *Signer) LastLocked() []proof.Head {
	var out []proof.Head
	for _, h := range s.mu.last {
		out = append(out, h)
	}
	return out
}

// Agrees says whether a shard's head is of the log that had the head before:
// with own evidence (a tree), or with a proof that came along.
type Agrees func(last, head proof.Head) error

// Sign signs a checkpoint's text if all its heads agree with what was signed
// before, which is on disk before the signature is returned. The answer is a
// signature line of the note.
func (s *Signer) Sign(text string, agrees Agrees) (string, error) {
	c, err := proof.ParseCheckpoint(text)
	if err != nil {
		return "", fmt.Errorf("trail: %w", err)
	}
	if c.Cluster != s.cluster {
		return "", fmt.Errorf("trail: the checkpoint is of cluster %x: %w", c.Cluster, ErrInconsistent)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[uint32]proof.Head{}
	for shard, h := range s.mu.last { // a shard that the maker has no replica of is not in its checkpoint
		next[shard] = h
	}
	changed := false
	for _, h := range c.Shards {
		last, ok := next[h.Shard]
		if !ok {
			last = proof.Head{Shard: h.Shard, Root: proof.EmptyRoot}
		}
		if err := agrees(last, h); err != nil {
			return "", fmt.Errorf("trail: shard %d, size %d after %d: %w", h.Shard, h.Size, last.Size, err)
		}
		if !ok || h.Size > last.Size {
			next[h.Shard], changed = h, true
		}
	}
	if changed {
		if err := s.writeLast(next); err != nil {
			return "", err
		}
		s.mu.last = next
	}
	signed, err := note.Sign(&note.Note{Text: text}, s.signer)
	if err != nil {
		return "", fmt.Errorf("trail: %w", err)
	}
	return string(bytes.TrimPrefix(signed, []byte(text+"\n"))), nil
}

func (s *Signer) writeLast(heads map[uint32]proof.Head) error {
	list := []lastHead{}
	for _, h := range heads {
		list = append(list, lastHead{h.Shard, h.Size, h.Root[:]})
	}
	b, err := json.Marshal(list)
	if err == nil {
		err = s.fs.Replace(filepath.Join(s.dir, "signed"), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("trail: what was signed last: %w", err)
	}
	return nil
}
