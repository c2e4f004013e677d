package node

import (
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// grant is one lease as its holder's node learns of it.
type grant struct {
	id          ledger.TaskID
	epoch       uint64
	leaseMillis int64
	attempt     uint32
	theft       *theft
	// Known when the task was read.
	action, target string
	logged         bool // its lease is in the log, or has to go there first (epoch 0)
}

// leaseTo gives agent, connected to node, the tasks behind handles. Handles
// that have become stale or are taken are passed over: the scheduler holds
// hints, the desk decides.
func (d *desk) leaseTo(handles []sched.Handle, agent string, node uint64, nowMillis int64, out []grant) []grant {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.term == 0 || !d.mu.opened && !d.mu.fresh {
		return out
	}
	var why *choice
	for _, h := range handles {
		i, ok := d.slotOf(h)
		if !ok {
			continue
		}
		s := d.mu.slots[i]
		if s.brief.State != ledger.StateReady || s.lease.agent != "" || s.ending || s.leasing || s.brief.Self || s.old && !d.mu.opened {
			continue
		}
		if why == nil || why.of.capability != s.brief.Capability {
			why = d.why(s.brief.Capability, agent)
		}
		if s.why = why; s.brief.Logged {
			s.leasing = true
			d.hand(i, agent)
			out = append(out, grant{id: s.brief.ID, leaseMillis: s.brief.LeaseMillis, attempt: s.brief.Attempts + 1, logged: true})
			continue
		}
		s.epoch, s.last = max(s.epoch+1, d.mu.term<<epochTermShift|1), agent
		s.lease = lease{agent: agent, node: node, epoch: s.epoch, assigned: nowMillis,
			expires: nowMillis + s.brief.LeaseMillis, confirmBy: nowMillis + confirmMillis}
		d.hand(i, agent)
		d.mu.leased++
		d.rearm(i)
		out = append(out, grant{id: s.brief.ID, epoch: s.epoch, leaseMillis: s.brief.LeaseMillis, attempt: s.brief.Attempts + 1})
	}
	return out
}

// claimVerdict says whether a holder's claim stands.
type claimVerdict uint8

const (
	claimHolds   claimVerdict = iota
	claimStale                // someone else, or nobody any more, holds it: the epoch is over
	claimUnknown              // the desk knows no lease: the ledger decides
	claimNoDesk               // not the leader (any more)
)

// find looks a claim up. Call with the lock held.
func (d *desk) find(id ledger.TaskID, agent string, epoch uint64) (uint32, claimVerdict) {
	if d.mu.term == 0 {
		return 0, claimNoDesk
	}
	i, ok := d.mu.byID[id]
	if !ok {
		return 0, claimUnknown
	}
	s := d.mu.slots[i]
	switch {
	case s.lease.agent == agent && s.lease.epoch == epoch:
		return i, claimHolds
	case s.brief.State == ledger.StateUnknown && s.brief.Holder == agent && s.brief.Epoch == epoch:
		return i, claimUnknown // it came back: the ledger decides
	case s.lease.agent != "" || epoch <= s.brief.Epoch || epoch < s.epoch:
		return i, claimStale
	case epoch == s.epoch && agent == s.last: // given back, or never confirmed
	case !s.old || epoch>>epochTermShift == 0 || epoch>>epochTermShift >= d.mu.term:
		return i, claimStale // the desk knows every epoch of this term: that one is another task's, or made up
	}
	return i, claimUnknown
}

// held is what renewing tells of a lease.
type held struct {
	expires     int64
	leaseMillis int64
	started     bool
}

// renew prolongs a lease; start marks it running, progress (nil: none) is
// kept. A holder whose lease the desk lost in a leader change gets it back
// when nobody else was given the task meanwhile.
func (d *desk) renew(id ledger.TaskID, agent string, node, epoch uint64, start bool, progress []byte, nowMillis int64) (held, claimVerdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, v := d.find(id, agent, epoch)
	if v == claimUnknown {
		d.restore(report{id: id, agent: agent, node: node, epoch: epoch}, nowMillis)
		if i, v = d.find(id, agent, epoch); v == claimHolds {
			d.mu.slots[i].gen++ // its queued handle, if any, is stale
		}
	}
	if v != claimHolds {
		return held{}, v
	}
	s := d.mu.slots[i]
	s.lease.expires, s.lease.confirmed, s.lease.node = nowMillis+s.brief.LeaseMillis, true, node
	if (start || progress != nil) && s.lease.started == 0 {
		s.lease.started = nowMillis
	}
	if progress != nil {
		s.lease.progress = progress
	}
	d.rearm(i)
	return held{expires: s.lease.expires, leaseMillis: s.brief.LeaseMillis, started: s.lease.started != 0}, v
}

// confirm notes that leases arrived at their agent's node.
func (d *desk) confirm(id ledger.TaskID, epoch uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.mu.byID[id]; ok && d.mu.slots[i].lease.epoch == epoch && !d.mu.slots[i].lease.confirmed {
		d.mu.slots[i].lease.confirmed = true
		d.rearm(i)
	}
}

// unconfirm notes that a lease in the log is on its way to a node.
func (d *desk) unconfirm(id ledger.TaskID, epoch, node uint64, nowMillis int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.mu.byID[id]; ok && d.mu.slots[i].lease.epoch == epoch {
		l := &d.mu.slots[i].lease
		l.node, l.confirmed, l.confirmBy = node, false, nowMillis+confirmMillis
		d.rearm(i)
	}
}

// giveBack ends a lease that nobody began with; no attempt is counted. One
// that is in the log needs the command returned. It is not done if the desk is
// not (yet) the one that knows the leases.
func (d *desk) giveBack(id ledger.TaskID, epoch uint64) (c ledger.Command, done bool) {
	d.mu.Lock()
	if d.mu.term == 0 || !d.mu.opened && epoch>>epochTermShift < d.mu.term {
		d.mu.Unlock()
		return nil, false
	}
	i, ok := d.mu.byID[id]
	if !ok || d.mu.slots[i].lease.agent == "" || d.mu.slots[i].lease.epoch != epoch || d.mu.slots[i].ending {
		d.mu.Unlock()
		return nil, true
	}
	if s := d.mu.slots[i]; s.brief.Logged {
		defer d.mu.Unlock()
		return &ledger.Release{ID: id, Agent: s.lease.agent, Epoch: epoch}, true
	}
	r := d.takeBack(i)
	d.mu.Unlock()
	d.push([]ready{r})
	return nil, true
}

func (d *desk) takeBack(i uint32) ready {
	s := d.mu.slots[i]
	s.lease = lease{}
	d.unhand(i)
	s.gen++
	d.mu.leased--
	d.rearm(i)
	return d.ready(i)
}

// settling admits a completion or failure to the log: a claim that holds is
// marked ending (so that no expiry overtakes it) and gets the times the desk
// knows; a stale one is refused here.
func (d *desk) settling(id ledger.TaskID, agent string, epoch uint64, nowMillis int64) (assigned, started int64, from string, v claimVerdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, v := d.find(id, agent, epoch)
	if v != claimHolds {
		return 0, 0, "", v
	}
	s := d.mu.slots[i]
	s.ending, s.nextTry = true, nowMillis+proposeAgainMs
	started = s.lease.started
	if started == 0 {
		started = s.lease.assigned // complete and fail imply start
	}
	return s.lease.assigned, started, s.lease.from(), v
}

// overlay is what the desk adds to a task's replicated state.
func (d *desk) overlay(id ledger.TaskID) (l lease, epoch uint64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, found := d.mu.byID[id]
	if !found {
		return lease{}, 0, false
	}
	return d.mu.slots[i].lease, d.mu.slots[i].epoch, d.mu.slots[i].lease.agent != ""
}

// due collects the commands that time asks for: expiries, delays that ended,
// deadlines that passed; and the leases to ask about. The ledger checks each
// command again.
func (d *desk) due(nowMillis int64) (cmds []ledger.Command, asks []unconfirmed) {
	var back []ready
	d.mu.Lock()
	if d.mu.term == 0 || !d.mu.opened {
		d.mu.Unlock()
		return nil, nil
	}
	d.mu.wheel.advance(nowMillis, func(i uint32) {
		s := d.mu.slots[i]
		b := &s.brief
		switch {
		case s.nextTry > nowMillis:
		case s.shelved:
			s.shelved, s.passed = false, 0
			if b.State == ledger.StateReady && s.lease.agent == "" && !s.leasing {
				back = append(back, d.ready(i))
			}
		case b.DeadlineMillis > 0 && b.DeadlineMillis <= nowMillis:
			cmds = append(cmds, &ledger.Timeout{ID: b.ID})
			s.nextTry = nowMillis + proposeAgainMs
		case s.lease.agent != "" && s.lease.expires+leaseSlackMs <= nowMillis:
			cmds = append(cmds, &ledger.Expire{ID: b.ID, Agent: s.lease.agent, Epoch: s.lease.epoch, Reason: ledger.ReasonLeaseExpired})
			s.nextTry = nowMillis + proposeAgainMs
		case s.lease.agent != "" && !s.lease.confirmed && s.lease.confirmBy <= nowMillis && !s.ending:
			asks = append(asks, unconfirmed{id: b.ID, node: s.lease.node, epoch: s.lease.epoch})
			s.lease.confirmBy = nowMillis + confirmMillis
		case b.State == ledger.StateSubmitted && b.NotBeforeMillis > 0 && b.NotBeforeMillis <= nowMillis:
			cmds = append(cmds, &ledger.Due{ID: b.ID})
			s.nextTry = nowMillis + proposeAgainMs
		default:
			if r, ok := d.raise(i, nowMillis); ok {
				back = append(back, r)
			}
		}
		d.rearm(i)
	})
	d.mu.Unlock()
	if len(back) > 0 {
		d.push(back)
	}
	return cmds, asks
}

// lost collects the expiries of everything an agent held.
func (d *desk) lost(agent string) []ledger.Command {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.leased == 0 {
		return nil
	}
	var cmds []ledger.Command
	for i := range d.mu.slots {
		if s := d.mu.slots[i]; s.lease.agent == agent && agent != "" && !s.ending {
			cmds = append(cmds, &ledger.Expire{ID: s.brief.ID, Agent: agent, Epoch: s.lease.epoch, Reason: ledger.ReasonAgentLost})
		}
	}
	return cmds
}

// deskCounts are a desk's figures by capability.
type deskCounts struct{ queued, leased, delayed int }

// counts adds the desk's open tasks up by capability.
func (d *desk) counts(into map[string]*deskCounts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.mu.slots {
		s := d.mu.slots[i]
		if s.brief.ID.IsZero() {
			continue
		}
		c := into[s.brief.Capability]
		if c == nil {
			c = &deskCounts{}
			into[s.brief.Capability] = c
		}
		switch {
		case s.lease.agent != "":
			c.leased++
		case s.brief.State == ledger.StateReady:
			c.queued++
		default:
			c.delayed++
		}
	}
}
