package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Every connection starts with these four bytes from the dialer, so that a
// stray client of another protocol is told apart before its first frame.
const magic = "QRT1"

// protocolVersion covers everything behind the hello's first field.
const protocolVersion = 1

// What a connection is for.
const (
	forPeer     = 1
	forSnapshot = 2
	forForm     = 3
)

// maxHelloBytes: version, purpose, cluster ID, three numbers, two names.
const maxHelloBytes = 2 + 1 + 16 + 3*8 + 2*(1+MaxNameBytes)

// hello is what each side says of itself; the acceptor's is the welcome.
type hello struct {
	version     uint16
	purpose     uint8
	clusterID   [16]byte
	raftID      uint64
	wanted      uint64 // whom the dialer believes to have reached; 0 = anyone
	incarnation uint64
	cluster     string
	nodeID      string
}

var errHello = errors.New("malformed hello")

func (h *hello) append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, h.version)
	dst = append(dst, h.purpose)
	dst = append(dst, h.clusterID[:]...)
	dst = le.AppendUint64(dst, h.raftID)
	dst = le.AppendUint64(dst, h.wanted)
	dst = le.AppendUint64(dst, h.incarnation)
	for _, s := range []string{h.cluster, h.nodeID} {
		dst = append(append(dst, byte(len(s))), s...)
	}
	return dst
}

// parseHello decodes a hello; of an unknown version only the version is read.
func parseHello(b []byte) (hello, error) {
	var h hello
	if len(b) < 2 {
		return h, errHello
	}
	le := binary.LittleEndian
	if h.version = le.Uint16(b); h.version != protocolVersion {
		return h, nil
	}
	const fixed = 2 + 1 + 16 + 24
	if len(b) < fixed {
		return h, errHello
	}
	h.purpose = b[2]
	copy(h.clusterID[:], b[3:])
	h.raftID, h.wanted, h.incarnation = le.Uint64(b[19:]), le.Uint64(b[27:]), le.Uint64(b[35:])
	b = b[fixed:]
	for _, s := range []*string{&h.cluster, &h.nodeID} {
		if len(b) == 0 || len(b) < 1+int(b[0]) || b[0] == 0 {
			return h, errHello
		}
		n := 1 + int(b[0])
		*s, b = string(b[1:n]), b[n:]
	}
	if len(b) > 0 || h.purpose < forPeer || h.purpose > forForm || h.raftID == 0 {
		return h, errHello
	}
	return h, nil
}

func appendRefusal(dst []byte, r *RefusedError) []byte {
	text := r.Text[:min(len(r.Text), MaxNameBytes)]
	return append(append(dst, byte(r.Code)), text...)
}

// readHello reads magic and hello of a dialer.
func readHello(fr *frameReader) (hello, error) {
	head, err := fr.r.Peek(len(magic))
	if err != nil {
		return hello{}, err
	}
	if !bytes.Equal(head, []byte(magic)) {
		return hello{}, fmt.Errorf("%w: not this protocol", errHello)
	}
	_, _ = fr.r.Discard(len(magic)) // peeked
	var f frame
	if err := fr.next(&f); err != nil {
		return hello{}, err
	}
	if f.typ != typeHello {
		return hello{}, errHello
	}
	return parseHello(f.body)
}

// greet is the dialer's side of the handshake: say h, hear the other. A refusal
// is a *RefusedError. The connection has a deadline, which is cleared on success.
func greet(nc net.Conn, h hello, maxBody int) (*frameReader, hello, error) {
	_ = nc.SetDeadline(time.Now().Add(HandshakeTimeout))
	if _, err := nc.Write(appendFrame([]byte(magic), &frame{typ: typeHello, body: h.append(nil)})); err != nil {
		return nil, hello{}, err
	}
	fr := newFrameReader(nc, maxHelloBytes)
	var f frame
	if err := fr.next(&f); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, hello{}, err
	}
	addr := nc.RemoteAddr().String()
	switch f.typ {
	case typeRefuse:
		if len(f.body) == 0 {
			return nil, hello{}, errHello
		}
		return nil, hello{}, &RefusedError{Addr: addr, Code: RefusalCode(f.body[0]), Text: string(f.body[1:])}
	case typeWelcome:
	default:
		return nil, hello{}, errFrameUnasked
	}
	got, err := parseHello(f.body)
	if err != nil {
		return nil, got, err
	}
	if got.version != protocolVersion {
		return nil, got, &RefusedError{Addr: addr, Code: RefusedVersion, Local: true,
			Text: fmt.Sprintf("speaks protocol %d, this node %d", got.version, protocolVersion)}
	}
	fr.max = maxBody
	return fr, got, nc.SetDeadline(time.Time{})
}
