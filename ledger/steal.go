package ledger

import "slices"

// kindSteal follows the kinds of command_txn.go.
const kindSteal kind = 26

// MaxLoad is a full load: loads are told in thousandths.
const MaxLoad = 1000

// Steal gives a task that its holder had not started, and gave up, to another
// agent. The thief hears of it only when the command was applied, so every
// steal is in the audit log. If the leases of the task are in the log, it is
// the command that moves the lease, and the ledger makes the epoch. Of another
// task the shard's leader moved it and made Epoch: the ledger, to which such a
// task is ready until its attempt ends, records it.
type Steal struct {
	ID        TaskID
	From      string // who held it
	FromEpoch uint64
	Agent     string // who gets it
	Node      string // where Agent is connected
	Epoch     uint64 // of the new lease; 0: the ledger makes it
	FromLoad  uint32 // up to MaxLoad
	ToLoad    uint32
}

func (*Steal) kind() kind { return kindSteal }

// Append implements Command.
func (c *Steal) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindSteal), c.ID[:]...)
	dst = appendUint(appendString(dst, c.From), c.FromEpoch)
	dst = appendString(appendString(dst, c.Agent), c.Node)
	dst = appendUint(dst, c.Epoch)
	return appendUint(appendUint(dst, uint64(c.FromLoad)), uint64(c.ToLoad))
}

func (c *Steal) read(r *reader) {
	r.fixed(c.ID[:])
	c.From, c.FromEpoch = r.string(), r.uint()
	c.Agent, c.Node, c.Epoch = r.string(), r.string(), r.uint()
	c.FromLoad, c.ToLoad = r.uint32(), r.uint32()
}

func (t *Tasks) steal(c *Steal) Outcome {
	switch {
	case c.From == "" || c.Agent == "" || max(len(c.From), len(c.Agent), len(c.Node)) > maxNameBytes:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "an agent's name is missing, or a name is too long"}
	case c.From == c.Agent:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "an agent steals from others"}
	case max(c.FromLoad, c.ToLoad) > MaxLoad:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "a load is over 1000 thousandths"}
	}
	i, e := t.find(c.ID)
	if e == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	stolen := Record{Verb: VerbStolen, Agent: c.Agent, Actor: c.Node, StolenFrom: c.From, FromLoad: c.FromLoad, ToLoad: c.ToLoad}
	if e.x != nil && e.x.Terms.Self {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "who declares this task performs it"}
	}
	if e.x == nil || !e.logged() {
		if c.Epoch == 0 {
			return Outcome{Code: Invalid, ID: c.ID, Detail: "leases of this task are not in the log: its new epoch is missing"}
		}
		if e.state != StateReady || c.FromEpoch <= e.epoch || c.Epoch <= c.FromEpoch {
			return e.outcome(NotDue, false)
		}
		t.rec = stolen
		t.rec.Epoch = c.Epoch
		t.record(e, e.state, e.state)
		return e.outcome(OK, false)
	}
	if e.state != StateRunning || e.agent != c.From || e.epoch != c.FromEpoch {
		return e.outcome(NotDue, false)
	}
	t.rec = Record{Agent: c.Agent, Actor: c.Node, StolenFrom: c.From, Detail: VerbStolen}
	switch {
	case e.deadline > 0 && e.deadline <= t.now:
		return t.turnDown(e, DeadlinePassed)
	case slices.ContainsFunc(e.x.Approvals, func(a Approval) bool { return a.By == c.Agent }):
		return t.turnDown(e, SelfApproval)
	}
	t.grant(e, c.Agent, c.Node, "")
	t.rec = stolen
	t.rec.Epoch = e.epoch
	t.move(i, e, StateRunning, false)
	return e.outcome(OK, false)
}
