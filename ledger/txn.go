package ledger

import "fmt"

// Hook is a task that the ledger makes by itself about another one: to find
// out whether its effect happened (verify), or to undo it (rollback). It is
// run at_least_once under a key of its own.
type Hook struct {
	Action, Target string // empty: there is no hook
	Input          []byte // JSON, handed to who performs it
	MaxRetries     uint32
	LeaseMillis    int64 // 0: as the task's own
}

// Declared says that there is a hook.
func (h *Hook) Declared() bool { return h.Action != "" }

// Terms are what a declared task asks beyond being run. They never change,
// save for Approvers, Rule and Pack, which a Hold raises.
type Terms struct {
	Self           bool     // performed by the agent that declares it, never by the scheduler's choice
	Approvers      uint32   // distinct people who must approve it first
	Allowed        []string // who may; empty: anyone but its submitter and its agent
	Rule, Pack     string   // the rule that decided about approval, and its pack's version
	SkipDependents bool     // a failed dependency cancels this task, instead of failing it
	Verify         Hook
	Rollback       Hook
	OnUnknown      bool   // roll back what nobody can tell
	OnFailure      bool   // roll back when the last attempt failed
	OnFailureAll   bool   // roll the whole session back then
	Snapshot       []byte // JSON, the target's state before: handed to the rollback
	Regulations    []string
	Classification string
}

const (
	termsSelf = 1 << iota
	termsSkip
	termsOnUnknown
	termsOnFailure
	termsOnFailureAll
	termsFlagsEnd
)

const termsVersion = 1

// Append writes the terms' encoding: version u8, flags u8, approvers, allowed
// (count and text each), rule, pack (text), the two hooks (action, target:
// text, input: byte string, max_retries, lease_ms), snapshot (byte string),
// regulations (as allowed), classification (text).
func (m *Terms) Append(dst []byte) []byte {
	var flags uint8
	for i, on := range []bool{m.Self, m.SkipDependents, m.OnUnknown, m.OnFailure, m.OnFailureAll} {
		if on {
			flags |= 1 << i
		}
	}
	dst = appendUint(append(dst, termsVersion, flags), uint64(m.Approvers))
	dst = appendStrings(dst, m.Allowed)
	dst = appendString(appendString(dst, m.Rule), m.Pack)
	for _, h := range []*Hook{&m.Verify, &m.Rollback} {
		dst = appendString(appendString(dst, h.Action), h.Target)
		dst = appendBytes(dst, h.Input)
		dst = appendInt(appendUint(dst, uint64(h.MaxRetries)), h.LeaseMillis)
	}
	dst = appendBytes(dst, m.Snapshot)
	return appendString(appendStrings(dst, m.Regulations), m.Classification)
}

func (m *Terms) read(r *reader) {
	if v := r.u8(); r.err == nil && v != termsVersion {
		r.fail(fmt.Sprintf("terms version %d is not known", v))
	}
	flags := r.u8()
	if flags >= termsFlagsEnd {
		r.fail("unknown flags in terms")
	}
	m.Self, m.SkipDependents = flags&termsSelf != 0, flags&termsSkip != 0
	m.OnUnknown, m.OnFailure, m.OnFailureAll = flags&termsOnUnknown != 0, flags&termsOnFailure != 0, flags&termsOnFailureAll != 0
	m.Approvers, m.Allowed = r.uint32(), readStrings(r)
	m.Rule, m.Pack = r.string(), r.string()
	for _, h := range []*Hook{&m.Verify, &m.Rollback} {
		h.Action, h.Target, h.Input = r.string(), r.string(), clone(r.view())
		h.MaxRetries, h.LeaseMillis = r.uint32(), r.int()
	}
	m.Snapshot = clone(r.view())
	m.Regulations, m.Classification = readStrings(r), r.string()
}

// Role is why the ledger made a task by itself.
type Role uint8

// The roles. A task somebody submitted has none.
const (
	RoleNone     Role = iota
	RoleVerify        // asks whether another task's effect happened
	RoleRollback      // undoes another task's effect
	RoleSaga          // undoes the steps of a session, one after the other
	roleEnd
)

// Approval is one person's consent.
type Approval struct {
	By     string
	Millis int64
}

// Saved is what the holder of a task left for the next one.
type Saved struct {
	Version uint64 // strictly increasing per task; 0: nothing is saved
	Epoch   uint64 // of the lease it was saved under
	Agent   string
	Millis  int64
	State   []byte // JSON
}

// Txn is the part of a task that a plain one does not have.
type Txn struct {
	Terms     Terms
	Approvals []Approval
	Waits     []TaskID // dependencies not known to have ended
	Watchers  []TaskID // tasks that wait for this one's end
	Node      string   // where the holder of the replicated lease is connected
	Instance  string   // which of the holder's processes it is
	Leased    int64    // since when
	Role      Role
	Of        TaskID // verify, rollback: the task it is about
	Verify    TaskID // the newest task that verifies this one
	Rollback  TaskID // the newest task that undoes this one
	Saga      TaskID // the saga this is a step of
	Steps     []TaskID
	Next      uint32 // saga: the step being undone
	Rounds    uint32 // hooks made so far
	Asked     bool   // verify was asked in the present doubt
	Cancel    bool   // someone cancelled it while it ran: not done means cancelled
	Undo      bool   // roll it back when it completes
	Stuck     bool   // its rollback failed: listed until someone settles it
	Saved     Saved
	Snapshot  []byte // attached by the holder, in place of the terms'
}

const txnVersion = 1

const (
	txnAsked = 1 << iota
	txnCancel
	txnUndo
	txnStuck
	txnFlagsEnd
)

// append writes the encoding of rows: version u8, role u8, flags u8, terms,
// approvals (count, text and time each), waits, watchers (count and 16 bytes
// each), node, instance, leased at, of, verify, rollback, saga (16 bytes
// each), steps, next, rounds, saved (version, epoch, agent, time, state),
// snapshot.
func (x *Txn) append(dst []byte) []byte {
	var flags uint8
	for i, on := range []bool{x.Asked, x.Cancel, x.Undo, x.Stuck} {
		if on {
			flags |= 1 << i
		}
	}
	dst = x.Terms.Append(append(dst, txnVersion, uint8(x.Role), flags))
	dst = appendUint(dst, uint64(len(x.Approvals)))
	for i := range x.Approvals {
		dst = appendInt(appendString(dst, x.Approvals[i].By), x.Approvals[i].Millis)
	}
	dst = appendIDs(appendIDs(dst, x.Waits), x.Watchers)
	dst = appendInt(appendString(appendString(dst, x.Node), x.Instance), x.Leased)
	for _, id := range []*TaskID{&x.Of, &x.Verify, &x.Rollback, &x.Saga} {
		dst = append(dst, id[:]...)
	}
	dst = appendUint(appendUint(appendIDs(dst, x.Steps), uint64(x.Next)), uint64(x.Rounds))
	dst = appendUint(appendUint(dst, x.Saved.Version), x.Saved.Epoch)
	dst = appendInt(appendString(dst, x.Saved.Agent), x.Saved.Millis)
	return appendBytes(appendBytes(dst, x.Saved.State), x.Snapshot)
}

// decodeTxn reads the encoding that fills b; nothing of b is kept.
func decodeTxn(b []byte) (*Txn, error) {
	r := newReader(b)
	x := new(Txn)
	if v := r.u8(); r.err == nil && v != txnVersion {
		r.fail(fmt.Sprintf("transaction version %d is not known", v))
	}
	x.Role = Role(r.u8())
	flags := r.u8()
	if x.Role >= roleEnd || flags >= txnFlagsEnd {
		r.fail("unknown role or flags of a transaction")
	}
	x.Asked, x.Cancel, x.Undo, x.Stuck = flags&txnAsked != 0, flags&txnCancel != 0, flags&txnUndo != 0, flags&txnStuck != 0
	x.Terms.read(&r)
	if n := r.count(2); n > 0 {
		x.Approvals = make([]Approval, n)
	}
	for i := range x.Approvals {
		x.Approvals[i] = Approval{By: r.string(), Millis: r.int()}
	}
	x.Waits, x.Watchers = readIDs(&r), readIDs(&r)
	x.Node, x.Instance, x.Leased = r.string(), r.string(), r.int()
	for _, id := range []*TaskID{&x.Of, &x.Verify, &x.Rollback, &x.Saga} {
		r.fixed(id[:])
	}
	x.Steps, x.Next, x.Rounds = readIDs(&r), r.uint32(), r.uint32()
	x.Saved.Version, x.Saved.Epoch, x.Saved.Agent, x.Saved.Millis = r.uint(), r.uint(), r.string(), r.int()
	x.Saved.State, x.Snapshot = clone(r.view()), clone(r.view())
	if err := r.end(); err != nil {
		return nil, err
	}
	return x, nil
}

// copy is the transaction for a caller: what Apply may change is its own.
func (x *Txn) copy() *Txn {
	if x == nil {
		return nil
	}
	c := *x
	c.Approvals = append([]Approval(nil), x.Approvals...)
	c.Waits, c.Watchers = append([]TaskID(nil), x.Waits...), append([]TaskID(nil), x.Watchers...)
	return &c
}

func appendStrings(dst []byte, list []string) []byte {
	dst = appendUint(dst, uint64(len(list)))
	for _, s := range list {
		dst = appendString(dst, s)
	}
	return dst
}

func readStrings(r *reader) []string {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

func appendIDs(dst []byte, list []TaskID) []byte {
	dst = appendUint(dst, uint64(len(list)))
	for i := range list {
		dst = append(dst, list[i][:]...)
	}
	return dst
}

func readIDs(r *reader) []TaskID {
	n := r.count(len(TaskID{}))
	if n == 0 {
		return nil
	}
	list := make([]TaskID, n)
	for i := range list {
		r.fixed(list[i][:])
	}
	return list
}
