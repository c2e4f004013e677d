package api

import "encoding/json"

// WorkHello opens an agent's working session.
type WorkHello struct {
	AgentID string
	// Manifest is registered first, if it is new or another; empty: the agent
	// is registered already.
	Manifest json.RawMessage
	// Digest is what a welcome told; a registered manifest with another is
	// refused. Empty: any.
	Digest string
	Resume string // the token of the session before
	Held   []Held // what the agent still holds
}

// WorkWelcome answers a WorkHello.
type WorkWelcome struct {
	NodeID string
	Resume string   // token for the next session
	Digest string   // hex SHA-256 of the registered manifest
	Nodes  []string // API addresses of the members
}

// HeldClaim is start or progress of a held task within a session.
type HeldClaim struct {
	Held
	Start    bool
	Progress json.RawMessage
}

// Limits of a working session.
const (
	// MaxProgressBytes bounds one report of progress.
	MaxProgressBytes = 4 << 10
	// MaxCredit bounds the tasks an agent may ask for and not yet have, and
	// MaxHeld those it may say it holds when it connects: a task held costs its
	// node about 150 bytes.
	MaxCredit = 16 << 10
	MaxHeld   = 64 << 10
)
