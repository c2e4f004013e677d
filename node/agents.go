package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// Limits of a manifest.
const (
	MaxCapabilities  = 256
	MaxManifestBytes = 64 << 10
)

// Register enters an agent's manifest, or replaces the one it had.
func (n *core) Register(ctx context.Context, m api.Manifest) (api.Agent, error) {
	caps, err := parseManifest(&m)
	if err != nil {
		return api.Agent{}, err
	}
	b, jerr := json.Marshal(m)
	if jerr != nil {
		return api.Agent{}, errManifest(jerr.Error())
	}
	if len(b) > MaxManifestBytes {
		return api.Agent{}, errManifest(fmt.Sprintf("%d bytes, at most %d", len(b), MaxManifestBytes))
	}
	a := n.do(ctx, controlShard, []ledger.Command{&ledger.AgentRegister{ID: m.AgentID, Manifest: b, Capabilities: caps, MaxTasks: uint32(m.MaxTasks)}})[0]
	if a.err != nil {
		return api.Agent{}, asAPIError(a.err)
	}
	if a.outcome.Code != ledger.OK {
		return api.Agent{}, api.Errorf(422, 3, a.outcome.Code.String(), api.RetryNo, "agent %s: %s", m.AgentID, a.outcome.Detail)
	}
	n.unseat(m.AgentID) // the next lease sees the new capabilities
	n.roster.seen(m.AgentID)
	return n.Agent(ctx, m.AgentID)
}

func errManifest(detail string) *api.Error {
	return api.Errorf(422, 3, "invalid_manifest", api.RetryNo, "manifest: %s", detail).
		WithHint(`the minimal form is {"agent_id":"a","capabilities":["vet:go"]}`)
}

func parseManifest(m *api.Manifest) ([]ledger.CapabilitySpec, error) {
	if m.AgentID == "" || len(m.AgentID) > MaxNameBytes || strings.ContainsAny(m.AgentID, "/ \t\n") {
		return nil, errManifest(fmt.Sprintf("agent_id %q: want 1 to %d bytes without slash or space", m.AgentID, MaxNameBytes))
	}
	if e := checkNames("agent_id", m.AgentID); e != nil {
		return nil, e
	}
	if len(m.Capabilities) == 0 || len(m.Capabilities) > MaxCapabilities {
		return nil, errManifest(fmt.Sprintf("%d capabilities, want 1 to %d", len(m.Capabilities), MaxCapabilities))
	}
	if m.MaxTasks < 0 || m.MaxTasks > 1<<20 {
		return nil, errManifest(fmt.Sprintf("max_concurrent_tasks %d is not within 0 and %d", m.MaxTasks, 1<<20))
	}
	var caps []ledger.CapabilitySpec
	for _, c := range m.Capabilities {
		if c.Action == "" || c.Target == "" || len(c.Action) > MaxNameBytes || len(c.Target) > MaxNameBytes || strings.ContainsAny(c.Action, ": \t\n") {
			return nil, errManifest(fmt.Sprintf("capability %q:%q is not ACTION:TARGET", c.Action, c.Target))
		}
		x := ledger.CapabilitySpec{Action: c.Action, Target: c.Target, MaxConcurrent: uint32(max(c.MaxConcurrent, 0)), ConfidenceMillis: 500}
		if c.Confidence != nil {
			if *c.Confidence < 0 || *c.Confidence > 1 {
				return nil, errManifest(fmt.Sprintf("confidence %g of %s:%s is not within 0 and 1", *c.Confidence, c.Action, c.Target))
			}
			x.ConfidenceMillis = uint32(*c.Confidence * 1000)
		}
		caps = append(caps, x)
	}
	return caps, nil
}

// Deregister removes an agent; what it held goes to others.
func (n *core) Deregister(ctx context.Context, id string) error {
	a := n.do(ctx, controlShard, []ledger.Command{&ledger.AgentDeregister{ID: id}})[0]
	if a.err != nil {
		return asAPIError(a.err)
	}
	if a.outcome.Code != ledger.OK {
		return errNoAgent(id)
	}
	return nil
}

func errNoAgent(id string) *api.Error {
	return api.Errorf(404, 3, "agent_not_registered", api.RetryNo, "there is no agent %s", id).
		WithHint("register its manifest first: POST /v1/agents/register")
}

// agentsRequest reads agents at the control shard's leader, which alone knows
// when each was last heard of.
type agentsRequest struct {
	ID     string          `json:"id,omitempty"`
	Filter api.AgentFilter `json:"filter"`
}

// Agent reads one agent.
func (n *core) Agent(ctx context.Context, id string) (api.Agent, error) {
	as, err := read(ctx, n, controlShard, methodAgents, agentsRequest{ID: id}, n.agentsHere)
	if err != nil {
		return api.Agent{}, err
	}
	if len(as) == 0 {
		return api.Agent{}, errNoAgent(id)
	}
	return as[0], nil
}

// Agents lists agents: in ID order, or best first when an action is asked for.
func (n *core) Agents(ctx context.Context, f api.AgentFilter) (api.AgentPage, error) {
	page := api.AgentPage{Agents: []api.Agent{}}
	limit, err := pageLimit(f.Limit)
	if err != nil {
		return page, err
	}
	if states := []string{"", api.AgentHealthy, api.AgentDraining, api.AgentUnresponsive, api.AgentOffline}; !slices.Contains(states, f.State) {
		return page, api.Errorf(400, 3, "unknown_state", api.RetryNo, "there is no agent state %.64q", f.State).WithHint("want one of %v", states[1:])
	}
	cur, err := openCursor(n.cursorKey, "agents", f.Cursor)
	if err != nil {
		return page, err
	}
	as, err := read(ctx, n, controlShard, methodAgents, agentsRequest{Filter: f}, n.agentsHere)
	if err != nil {
		return page, err
	}
	page.Count = len(as)
	if f.Action != "" {
		sort.SliceStable(as, func(i, j int) bool { return agentScore(&as[i]) > agentScore(&as[j]) })
		if len(as) > 0 && as[0].State == api.AgentHealthy {
			page.Recommended = as[0].AgentID
		}
	}
	from := min(int(cur.Seq), len(as))
	to := min(from+limit, len(as))
	page.Agents = append(page.Agents, as[from:to]...)
	if to < len(as) {
		page.NextCursor = cursor{Kind: "agents", Seq: uint64(to)}.seal(n.cursorKey)
	}
	return page, nil
}

// agentScore ranks agents for a capability: able and well first, then
// measured success, then load.
func agentScore(a *api.Agent) float64 {
	s := a.Success - 0.3*a.Load
	if a.State != api.AgentHealthy {
		s -= 10
	}
	return s
}

func (n *core) agentsHere(ctx context.Context, q agentsRequest) ([]api.Agent, error) {
	if err := n.barrier(ctx, controlShard); err != nil {
		return nil, err
	}
	out := []api.Agent{}
	var bad error
	n.control.view(func(c *ledger.Control) {
		add := func(a ledger.Agent) {
			x, err := n.renderAgent(&a)
			if err != nil {
				bad = err
				return
			}
			if f := q.Filter; (f.State == "" || f.State == x.State) && (f.FleetID == "" || f.FleetID == x.FleetID) &&
				(f.Action == "" && f.Target == "" || canDo(a.Capabilities, f.Action, f.Target)) {
				out = append(out, x)
			}
		}
		if q.ID != "" {
			if a, ok := c.Agent(q.ID); ok {
				add(a)
			}
			return
		}
		for _, a := range c.Agents() {
			add(a)
		}
	})
	if bad != nil {
		return nil, errInternal(bad)
	}
	return out, nil
}

// canDo says that one of caps covers action and target; empty matches all.
func canDo(caps []ledger.CapabilitySpec, action, target string) bool {
	for _, c := range caps {
		if (action == "" || c.Action == action || c.Action == "*") && (target == "" || c.Target == target || c.Target == "*") {
			return true
		}
	}
	return false
}

func (n *core) renderAgent(a *ledger.Agent) (api.Agent, error) {
	x := api.Agent{State: a.State.String(), StateReason: a.Reason, RegisteredAt: timeOf(a.RegisteredMillis)}
	if err := json.Unmarshal(a.Manifest, &x.Manifest); err != nil {
		return x, fmt.Errorf("manifest of agent %s: %w", a.ID, err)
	}
	n.roster.describe(&x)
	x.MeasuredBy = n.id.NodeID
	return x, nil
}

// Heartbeat takes what an agent says of itself.
func (n *core) Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error) {
	if h.Load < 0 || h.Load > 1 || h.CurrentTasks < 0 {
		return api.HeartbeatAck{}, api.Errorf(422, 3, "bad_heartbeat", api.RetryNo, "load %g is not within 0 and 1, or current_tasks %d is negative", h.Load, h.CurrentTasks)
	}
	state := h.State
	if state == "" {
		state = h.Status
	}
	if state != "" && state != api.AgentHealthy && state != api.AgentDraining {
		return api.HeartbeatAck{}, api.Errorf(422, 3, "unknown_state", api.RetryNo, "state %q: an agent is healthy or draining", state)
	}
	if _, err := n.agentLocal(ctx, id); err != nil {
		return api.HeartbeatAck{}, err
	}
	load := h.Load
	n.roster.says(id, load)
	if b, err := json.Marshal(sighting{Agent: id, Load: &load}); err == nil {
		for _, v := range n.others() {
			_ = n.peers.Notify(v.RaftID, notifyLoad, b) // said again with the next heartbeat
		}
	}
	_, err := onLeader(ctx, n, controlShard, methodSeen, []sighting{{Agent: id, Load: &load, Current: h.CurrentTasks, State: state, Node: n.id.NodeID, At: n.nowMillis()}}, n.seenHere)
	if err != nil {
		return api.HeartbeatAck{}, err
	}
	if state == "" {
		state = api.AgentHealthy
	}
	return api.HeartbeatAck{AgentID: id, State: state, IntervalSeconds: n.cfg.AgentInterval.Seconds()}, nil
}

// agentLocal reads an agent from this node's replica, or from the leader when
// it is not here yet.
func (n *core) agentLocal(ctx context.Context, id string) (ledger.Agent, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var a ledger.Agent
	var ok bool
	n.control.view(func(c *ledger.Control) { a, ok = c.Agent(id) })
	if ok {
		return a, nil
	}
	if _, err := n.Agent(ctx, id); err != nil {
		return a, err
	}
	for ctx.Err() == nil { // registered, and on its way here
		n.control.view(func(c *ledger.Control) { a, ok = c.Agent(id) })
		if ok {
			return a, nil
		}
		if !n.pause(ctx, nil) {
			break
		}
	}
	return a, errNoAgent(id)
}

// seatOf is the agent's place on this node, made at its first call.
func (n *core) seatOf(ctx context.Context, id string) (*seat, error) {
	n.seats.Lock()
	s := n.seats.of[id]
	n.seats.Unlock()
	if s != nil {
		return s, nil
	}
	a, err := n.agentLocal(ctx, id)
	if err != nil {
		return nil, err
	}
	s = &seat{agent: id, max: int(a.MaxTasks), limits: allowanceOf(&a), declared: priorOf(a.Capabilities)}
	s.mu.waiting = map[*sched.Worker]parking{}
	for _, c := range a.Capabilities {
		s.caps = append(s.caps, c.Action+":"+c.Target)
	}
	n.seats.Lock()
	defer n.seats.Unlock()
	if old := n.seats.of[id]; old != nil {
		return old, nil
	}
	if len(n.seats.of) >= maxSeats {
		return nil, errOverloaded("the number of agents on one node")
	}
	n.seats.of[id] = s
	n.holds.limit(id, s.limits, func() { s.wake(maxSeats) })
	return s, nil
}

// maxSeats bounds the agents served by one node.
const maxSeats = 100_000

// unseat removes an agent's place; its parked calls return.
func (n *core) unseat(id string) {
	n.seats.Lock()
	s := n.seats.of[id]
	delete(n.seats.of, id)
	n.seats.Unlock()
	if s != nil {
		s.close()
	}
}

// agentEvents follows the control shard on every node: an agent that is gone
// loses its leases where their shards are led.
func (n *core) agentEvents(events []ledger.AgentEvent) {
	n.events.ring()
	for _, e := range events {
		switch e.State {
		case ledger.AgentUnresponsive, ledger.AgentOffline, ledger.AgentGone:
			n.unseat(e.ID)
			n.holds.dropAgent(e.ID)
			if e.State == ledger.AgentGone {
				n.roster.forget(e.ID)
				n.holds.limit(e.ID, allowance{}, nil)
			}
			n.background(func() { n.expireAgent(e.ID) })
		}
	}
}

// expireAgent proposes the end of every lease an agent holds on shards led
// here.
func (n *core) expireAgent(id string) {
	for shard, r := range *n.replicas.of.Load() {
		d := r.desk
		if cmds := d.lost(id); len(cmds) > 0 {
			n.cfg.Logger.Info("agent lost: its tasks go elsewhere", "layer", 5, "agent", id, "shard", shard, "tasks", len(cmds))
			n.doHere(n.ctx, shard, cmds)
		}
	}
}

// Session keeps an agent connected: it is seen as long as the session lasts,
// told when a task it holds is over, and lost at once when the connection
// breaks. held is what the agent holds from before: leases that still stand
// are kept, the others revoked.
func (n *core) Session(ctx context.Context, id string, holding []api.Held, send func(api.SessionEvent) error) error {
	if _, err := n.agentLocal(ctx, id); err != nil {
		return err
	}
	turn := n.turns.next(id, 0)
	s := n.sessions.open(id, turn)
	defer func() { n.sessionEnded(id, s) }()
	n.announceSession(id, turn)
	if err := send(api.SessionEvent{Type: "hello"}); err != nil {
		return nil
	}
	n.roster.seen(id)
	n.flushSeen()
	for _, h := range holding {
		if _, err := n.Renew(ctx, h.TaskID, api.Claim{AgentID: id, Epoch: h.Epoch}); err != nil {
			if e := asAPIError(err); e.Retry == api.RetryNo {
				s.revoke(api.SessionEvent{Type: "revoked", TaskID: h.TaskID, Epoch: h.Epoch, Reason: e.Code})
			}
		}
	}
	ping := time.NewTicker(sessionPing)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.ctx.Done():
			return nil
		case <-s.fenced:
			return api.Errorf(409, 2, "session_fenced", api.RetryNo, "agent %s connected again: this session is over", id)
		case <-s.bell:
			list, err := s.told(api.MaxBatch)
			if err != nil {
				return err
			}
			for _, ev := range list {
				if send(ev) != nil {
					return nil
				}
			}
		case <-ping.C:
			if send(api.SessionEvent{Type: "ping"}) != nil {
				return nil
			}
		}
	}
}

// Timings of agents' liveness.
const (
	sessionPing  = 5 * time.Second
	sessionGrace = time.Second // an agent that reconnects within it was never lost
	missedBeats  = 3
)

// sessionEnded tells the control leader of a lost connection, unless the agent
// came back within the grace.
func (n *core) sessionEnded(id string, s *session) {
	if !n.sessions.close(id, s) || n.closing() { // fenced: it lives on in another session
		return
	}
	ended := n.nowMillis()
	n.background(func() {
		t := time.NewTimer(sessionGrace)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
		if elsewhere := n.sessions.back(id); elsewhere || n.sessions.connected(id) {
			return
		}
		_, err := onLeader(n.ctx, n, controlShard, methodGone, goneRequest{Agent: id, Age: n.nowMillis() - ended, Node: n.id.NodeID, At: ended}, n.goneHere)
		if err != nil {
			n.cfg.Logger.Warn("lost agent not reported; its leases run out instead", "layer", 3, "agent", id, "error", err)
		}
	})
}
