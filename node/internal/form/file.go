package form

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/quorate/quorate/node/internal/files"
)

// FileName is the identity's name in the data directory.
const FileName = "identity.json"

// MaxNameBytes bounds a node ID and a cluster name: one length byte in a hello.
const MaxNameBytes = 255

// fileFormat is the version of the file; another is refused, not guessed.
const fileFormat = 1

// file is the JSON in the file. The checksum is SHA-256 over the compacted
// identity, so that looking at it with an editor does no harm, changing it does.
type file struct {
	Format   int             `json:"format"`
	Checksum string          `json:"checksum"`
	Identity json.RawMessage `json:"identity"`
}

// owned are the entries of a data directory that only a node with an identity
// makes: with them and without the identity something was lost.
var owned = []string{"log", "state", "journal", "marks"}

func checksum(identity []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, identity); err != nil {
		return "", err
	}
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:]), nil
}

// Load reads the identity of a data directory: ErrNoIdentity, ErrCorrupt or
// what it holds.
func Load(fsys files.FS, dir string) (Identity, error) {
	path := filepath.Join(dir, FileName)
	b, err := fsys.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("%w: %s", ErrNoIdentity, dir)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("form: load: %w", err)
	}
	id, err := decode(b)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return id, nil
}

func decode(b []byte) (Identity, error) {
	var f file
	if err := strict(b, &f); err != nil {
		return Identity{}, err
	}
	if f.Format != fileFormat {
		return Identity{}, fmt.Errorf("format %d, this version reads %d", f.Format, fileFormat)
	}
	sum, err := checksum(f.Identity)
	if err != nil {
		return Identity{}, err
	}
	if sum != f.Checksum {
		return Identity{}, errors.New("checksum does not match")
	}
	var id Identity
	if err := strict(f.Identity, &id); err != nil {
		return Identity{}, err
	}
	return id, id.validate()
}

// strict decodes one JSON value without unknown fields or anything behind it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func (id *Identity) validate() error {
	switch {
	case id.RaftID == 0:
		return errors.New("raft ID is 0")
	case id.NodeID == "" || len(id.NodeID) > MaxNameBytes:
		return fmt.Errorf("node ID of %d bytes, want 1 to %d", len(id.NodeID), MaxNameBytes)
	case id.Cluster == "" || len(id.Cluster) > MaxNameBytes:
		return fmt.Errorf("cluster name of %d bytes, want 1 to %d", len(id.Cluster), MaxNameBytes)
	case id.formed() && (id.Promise != nil || len(id.Voters) == 0 || id.Shards == 0):
		return errors.New("formed, but with an open promise or without voters or shards")
	}
	return nil
}

// Save writes the identity; when it returns nil the file is on the disk. After
// an error it may hold the old or the new one: the process has to stop.
func (id Identity) Save(fsys files.FS, dir string) error {
	if err := id.save(fsys, dir); err != nil {
		return fmt.Errorf("form: save identity: %w", err)
	}
	return nil
}

func (id Identity) save(fsys files.FS, dir string) error {
	inner, err := json.Marshal(id)
	if err != nil {
		return err
	}
	sum, err := checksum(inner)
	if err != nil {
		return err
	}
	out, err := json.MarshalIndent(file{Format: fileFormat, Checksum: sum, Identity: inner}, "", "  ")
	if err != nil {
		return err
	}
	return fsys.Replace(filepath.Join(dir, FileName), append(out, '\n'))
}

// Create makes a new identity in a data directory that has none. An empty node
// ID is made up from the raft ID.
func Create(fsys files.FS, dir, nodeID, cluster string) (Identity, error) {
	for _, name := range append([]string{FileName}, owned...) {
		if there, err := fsys.Exists(filepath.Join(dir, name)); there {
			if name == FileName {
				return Identity{}, fmt.Errorf("form: create: %s has an identity", dir)
			}
			return Identity{}, fmt.Errorf("%w: %s holds %s but no %s", ErrCorrupt, dir, name, FileName)
		} else if err != nil {
			return Identity{}, fmt.Errorf("form: create: %w", err)
		}
	}
	id := Identity{NodeID: nodeID, RaftID: drawRaftID(), Cluster: cluster}
	if id.NodeID == "" {
		b := binary.BigEndian.AppendUint64(nil, id.RaftID)
		id.NodeID = "node-" + strings.ToLower(base32.HexEncoding.EncodeToString(b[:5]))
	}
	if err := id.validate(); err != nil {
		return Identity{}, fmt.Errorf("form: create: %w", err)
	}
	return id, id.Save(fsys, dir)
}

// drawRaftID draws 62 random bits, never 0: two nodes alike among a thousand
// are a matter of 1 in 10^13. The top bits stay clear of raft's reserved IDs.
func drawRaftID() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint64(b[:]) >> 2; id != 0 {
			return id
		}
	}
}

func drawClusterID() ID {
	for {
		var id ID
		_, _ = rand.Read(id[:]) // never fails
		if !id.IsZero() {
			return id
		}
	}
}

// Open loads the identity, or creates it in an empty directory, compares node
// ID and cluster name with those wanted ("" = any; a new cluster name must be
// given), counts the start and saves it.
func Open(fsys files.FS, dir, nodeID, cluster string) (Identity, error) {
	id, err := Load(fsys, dir)
	if errors.Is(err, ErrNoIdentity) {
		id, err = Create(fsys, dir, nodeID, cluster)
	}
	if err != nil {
		return Identity{}, err
	}
	if nodeID != "" && nodeID != id.NodeID {
		return Identity{}, fmt.Errorf("%w: %s is node %q's, not %q's", ErrNodeID, dir, id.NodeID, nodeID)
	}
	if cluster != "" && cluster != id.Cluster {
		return Identity{}, fmt.Errorf("%w: %s is of cluster %q, not %q", ErrCluster, dir, id.Cluster, cluster)
	}
	id.Incarnation++
	return id, id.Save(fsys, dir)
}
