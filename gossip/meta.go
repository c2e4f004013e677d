package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// Meta is what a node tells about itself.
type Meta struct {
	RaftID    uint64
	ClusterID [16]byte // zero = not formed
	Gateway   bool     // joined, but no member
	PeerAddr  string
	APIAddr   string
	Version   string
}

// MaxMetaBytes is the most an encoded Meta may take; memberlist panics above.
const MaxMetaBytes = memberlist.MetaMaxSize

// The encoding: version, flags, raft ID, cluster ID, three strings each with its
// length in a byte: 29 bytes and the strings.
const (
	metaVersion    = 1
	metaFixedBytes = 1 + 1 + 8 + 16
	flagGateway    = 1
)

var errMeta = errors.New("malformed meta")

// encode refuses what does not fit.
func (m Meta) encode() ([]byte, error) {
	b := make([]byte, 0, 128)
	var flags byte
	if m.Gateway {
		flags |= flagGateway
	}
	b = append(b, metaVersion, flags)
	b = binary.LittleEndian.AppendUint64(b, m.RaftID)
	b = append(b, m.ClusterID[:]...)
	for _, s := range []string{m.PeerAddr, m.APIAddr, m.Version} {
		if len(s) > 255 {
			return nil, fmt.Errorf("gossip: meta: a string of %d bytes, limit 255", len(s))
		}
		b = append(append(b, byte(len(s))), s...)
	}
	if len(b) > MaxMetaBytes {
		return nil, fmt.Errorf("gossip: meta: %d bytes, limit %d", len(b), MaxMetaBytes)
	}
	return b, nil
}

// decodeMeta is the inverse of encode; an unknown version is refused.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) < metaFixedBytes || len(b) > MaxMetaBytes {
		return m, fmt.Errorf("%w: %d bytes", errMeta, len(b))
	}
	if b[0] != metaVersion || b[1]&^flagGateway != 0 {
		return m, fmt.Errorf("%w: version %d, flags %#x", errMeta, b[0], b[1])
	}
	m.Gateway = b[1]&flagGateway != 0
	m.RaftID = binary.LittleEndian.Uint64(b[2:])
	copy(m.ClusterID[:], b[10:])
	b = b[metaFixedBytes:]
	for _, s := range []*string{&m.PeerAddr, &m.APIAddr, &m.Version} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return Meta{}, fmt.Errorf("%w: cut short", errMeta)
		}
		n := 1 + int(b[0])
		*s, b = string(b[1:n]), b[n:]
	}
	if len(b) > 0 {
		return Meta{}, fmt.Errorf("%w: %d bytes too many", errMeta, len(b))
	}
	return m, nil
}
