package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/stream"
)

// work is one agent's working session at this node: the stream's face drives
// it, and so may a program that embeds the node.
type work struct {
	n       *core
	agent   string
	session *session
	welcome api.WorkWelcome
	lost    []api.SessionEvent // of what the agent said it holds
}

var _ stream.Worker = (*work)(nil)

// OpenWork opens a working session: the agent is registered if need be, an
// older session of the same agent is fenced wherever it is, and what the agent
// holds from before is claimed for it.
func (n *core) OpenWork(ctx context.Context, h api.WorkHello) (stream.Worker, error) {
	if h.AgentID == "" {
		return nil, api.Errorf(422, 3, "agent_id_missing", api.RetryNo, "hello names no agent_id")
	}
	if len(h.Held) > api.MaxHeld {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d held tasks in hello, at most %d", len(h.Held), api.MaxHeld)
	}
	digest, err := n.manifestOf(ctx, h)
	if err != nil {
		return nil, err
	}
	resumed, turn := false, uint32(0)
	if h.Resume != "" {
		if turn, resumed = n.resumes(h.AgentID, h.Resume); !resumed {
			return nil, api.Errorf(403, 2, "bad_resume_token", api.RetryNo, "the resume token is not one this cluster gave agent %s", h.AgentID).
				WithHint("open a session without it")
		}
	}
	if !resumed && n.sessions.connected(h.AgentID) {
		n.cfg.Logger.Warn("agent connected again without its resume token: its older session is fenced", "layer", 2, "agent", h.AgentID)
	}
	turn = n.turns.next(h.AgentID, turn)
	w := &work{n: n, agent: h.AgentID, session: n.sessions.openWork(h.AgentID, turn)}
	if resumed { // who had a session held what it says: a shard's next leader must not give it away meanwhile
		now := n.nowMillis()
		for _, x := range h.Held {
			if id, err := n.claimed(x.TaskID, h.AgentID, x.Epoch); err == nil {
				n.holds.add(id, h.AgentID, n.capabilityFor(h.AgentID, id), x.Epoch, 0, now)
			}
		}
	}
	n.endOrphans(h.AgentID, n.holds.orphans(h.AgentID, h.Held))
	n.announceSession(h.AgentID, turn)
	n.roster.seen(h.AgentID)
	n.flushSeen()
	held := make([]api.HeldClaim, len(h.Held))
	for i, x := range h.Held {
		held[i].Held = x
	}
	claim, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.lost = n.claimMany(claim, h.AgentID, held)
	w.welcome = api.WorkWelcome{NodeID: n.id.NodeID, Resume: n.resumeToken(h.AgentID, turn+1), Digest: digest, Nodes: n.apiAddrs()}
	return w, nil
}

// manifestOf registers the manifest of a hello, if it brings a new one, and
// returns the digest of what is registered then.
func (n *core) manifestOf(ctx context.Context, h api.WorkHello) (string, error) {
	var digest string
	known := func() bool {
		var a ledger.Agent
		var ok bool
		n.control.view(func(c *ledger.Control) { a, ok = c.Agent(h.AgentID) })
		if ok {
			digest = digestOf(a.Manifest)
		}
		return ok
	}
	if len(h.Manifest) > 0 {
		var m api.Manifest
		if err := json.Unmarshal(h.Manifest, &m); err != nil {
			return "", errManifest(err.Error())
		}
		if m.AgentID != h.AgentID {
			return "", errManifest("agent_id is " + m.AgentID + ", hello says " + h.AgentID)
		}
		b, err := json.Marshal(m)
		if err != nil {
			return "", errManifest(err.Error())
		}
		if known() && digest == digestOf(b) {
			return digest, nil
		}
		_, err = n.Register(ctx, m)
		return digestOf(b), err
	}
	if !known() {
		a, err := n.agentLocal(ctx, h.AgentID)
		if err != nil {
			return "", err
		}
		digest = digestOf(a.Manifest)
	}
	if h.Digest != "" && h.Digest != digest {
		return "", api.Errorf(409, 3, "manifest_changed", api.RetryNo, "agent %s is registered with another manifest", h.AgentID).
			WithHint("send the manifest with the hello, or none of its digest")
	}
	return digest, nil
}

func digestOf(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}

// apiAddrs are the members' API addresses.
func (n *core) apiAddrs() (addrs []string) {
	n.control.view(func(c *ledger.Control) {
		for _, x := range c.Nodes() {
			if x.APIAddr != "" {
				addrs = append(addrs, x.APIAddr)
			}
		}
	})
	return addrs
}

// Welcome is what the session begins with, and Lost what of hello's tasks the
// agent holds no more.
func (w *work) Welcome() (api.WorkWelcome, []api.SessionEvent) { return w.welcome, w.lost }

// Take waits for up to limit tasks; none when ctx ends.
func (w *work) Take(ctx context.Context, limit int) ([]api.Lease, error) {
	for ctx.Err() == nil && w.n.ctx.Err() == nil {
		w.session.room.Store(int64(limit))
		got, err := w.n.Lease(ctx, api.LeaseRequest{AgentID: w.agent, Max: min(limit, MaxLeases), WaitSeconds: maxLeaseWait.Seconds()})
		if err == nil && len(got.Tasks) == 0 {
			continue
		}
		select {
		case <-w.session.fenced: // who opened the newer session knows nothing of these
			back := make([]api.Held, len(got.Tasks))
			for i := range got.Tasks {
				back[i] = api.Held{TaskID: got.Tasks[i].TaskID, Epoch: got.Tasks[i].Epoch}
			}
			w.Return(back)
			return nil, nil
		default:
			w.session.room.Store(int64(max(limit-len(got.Tasks), 0)))
			w.n.thieves.handed()
			return got.Tasks, err
		}
	}
	return nil, nil
}

// Settle ends held tasks.
func (w *work) Settle(ctx context.Context, list []api.Settlement) ([]api.SettleVerdict, error) {
	for i := range list {
		list[i].AgentID = w.agent // a session speaks for nobody else
		w.n.ended(w.agent, &list[i])
	}
	return w.n.Settle(ctx, w.agent, list)
}

// Claim marks tasks started, or takes their progress; it returns those that
// are over.
func (w *work) Claim(ctx context.Context, list []api.HeldClaim) ([]api.SessionEvent, error) {
	if len(list) > api.MaxBatch {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d claims in one message, at most %d", len(list), api.MaxBatch)
	}
	for i := range list {
		if len(list[i].Progress) > MaxProgressBytes {
			return nil, api.Errorf(413, 2, "payload_too_large", api.RetryNo, "progress of %s has %d bytes, at most %d", list[i].TaskID, len(list[i].Progress), MaxProgressBytes)
		}
		if list[i].Progress != nil && !json.Valid(list[i].Progress) {
			return nil, api.Errorf(422, 5, "bad_progress", api.RetryNo, "progress of %s is not JSON", list[i].TaskID)
		}
	}
	return w.n.claimMany(ctx, w.agent, list), nil
}

// Return gives tasks back that were not started; no attempt is counted.
func (w *work) Return(list []api.Held) {
	var back []grant
	for _, h := range list {
		if id, err := w.n.claimed(h.TaskID, w.agent, h.Epoch); err == nil && w.n.holds.yield(id, w.agent, h.Epoch) {
			if !w.n.recalls.answered(id, h.Epoch, true) {
				back = append(back, grant{id: id, epoch: h.Epoch})
			}
		}
	}
	w.n.handBack(back)
}

// Told rings when there may be Events.
func (w *work) Told() <-chan struct{} { return w.session.bell }

// Events are what the node tells of held tasks.
func (w *work) Events(limit int) ([]api.SessionEvent, error) { return w.session.told(limit) }

// Over is closed when the session must end, for the reason Why gives.
func (w *work) Over() <-chan struct{} { return w.session.fenced }

// Leaving is closed when the node goes: the agent should go to another.
func (w *work) Leaving() <-chan struct{} { return w.n.leaving }

// Why says what Over means.
func (w *work) Why() error { return errFenced(w.agent) }

// Close ends the session. The agent is lost unless it comes back, here or
// elsewhere, within the grace.
func (w *work) Close() { w.n.sessionEnded(w.agent, w.session) }

// OpenWork opens a working session; see the core's.
func (n *Node) OpenWork(ctx context.Context, h api.WorkHello) (stream.Worker, error) {
	c, err := n.member()
	if err != nil {
		return nil, err
	}
	if c.closing() {
		return nil, api.Errorf(503, 2, "node_leaving", api.RetryLater, "this node is shutting down").WithHint("connect to another")
	}
	w, err := c.OpenWork(ctx, h)
	if errors.Is(err, context.Canceled) {
		return nil, api.Errorf(503, 2, "cancelled", api.RetryLater, "the connection went while the session was opened")
	}
	return w, err
}
