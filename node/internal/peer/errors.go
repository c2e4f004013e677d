package peer

import (
	"errors"
	"fmt"
)

// Errors of Call, Notify and SendSnapshot that callers branch on.
var (
	// ErrPeerDown: no connection; certainly not delivered.
	ErrPeerDown = errors.New("peer: not connected")
	// ErrCallLost: sent, but no answer came before the connection broke or the
	// context ended; it may have been carried out.
	ErrCallLost = errors.New("peer: call lost, outcome unknown")
	// ErrOverloaded: a queue here or there is full; certainly not delivered.
	ErrOverloaded = errors.New("peer: overloaded")
	// ErrTooLarge: over MaxFrameBytes; certainly not delivered.
	ErrTooLarge = errors.New("peer: message over the frame limit")
	// ErrClosed: the transport is closed; certainly not delivered.
	ErrClosed = errors.New("peer: closed")
)

// CodeInternal is the code of a remote error that was not a *RemoteError there.
const CodeInternal = "internal"

// RemoteError is an error the other side's handler returned. A handler that
// returns one has its Code and Text carried over unchanged.
type RemoteError struct {
	Code string // stable, snake_case
	Text string
}

func (e *RemoteError) Error() string { return "peer: remote: " + e.Code + ": " + e.Text }

// RefusalCode says why a connection was refused.
type RefusalCode uint8

// Refusals, by what is wrong. The numbers are wire format.
const (
	RefusedVersion    RefusalCode = 1  // speaks another protocol version
	RefusedCluster    RefusalCode = 2  // another cluster name
	RefusedClusterID  RefusalCode = 3  // another cluster of the same name
	RefusedNotFormed  RefusalCode = 4  // not part of a cluster yet; try later
	RefusedWrongNode  RefusalCode = 5  // another node listens at this address
	RefusedNodeID     RefusalCode = 6  // the node ID belongs to another raft ID, or the reverse
	RefusedDirection  RefusalCode = 7  // the larger raft ID does not dial
	RefusedAdmission  RefusalCode = 8  // Config.Admit said no
	RefusedBusy       RefusalCode = 9  // too many connections; try later
	RefusedRolledBack RefusalCode = 10 // an older life of this node than was seen: a copied or restored data directory
	RefusedMalformed  RefusalCode = 11 // not a hello of this protocol
)

var refusalNames = [...]string{"", "protocol_version", "cluster_name_mismatch", "cluster_id_mismatch", "not_formed", "wrong_node",
	"node_id_taken", "wrong_direction", "not_admitted", "busy", "rolled_back", "malformed"}

// String is the stable snake_case name.
func (c RefusalCode) String() string {
	if int(c) < len(refusalNames) && c > 0 {
		return refusalNames[c]
	}
	return fmt.Sprintf("refusal_%d", uint8(c))
}

// RefusedError is a handshake refused, by the other side or (Local) by us.
type RefusedError struct {
	Addr  string
	Code  RefusalCode
	Text  string
	Local bool
}

func (e *RefusedError) Error() string {
	who := "by " + e.Addr
	if e.Local {
		who = "here, of " + e.Addr
	}
	return fmt.Sprintf("peer: connection refused %s: %s: %s", who, e.Code, e.Text)
}
