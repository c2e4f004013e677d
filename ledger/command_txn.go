package ledger

// The commands of transactions. Their kinds are 10 to 39; a field is only ever
// added by a new kind.
const (
	kindDeclare kind = iota + 10
	kindLease
	kindRelease
	kindDecide
	kindHold
	kindResolve
	kindDoubt
	kindAttach
	kindRollback
	kindSaga
	kindSagaAsk
	kindStepEnded
	kindWatch
	kindDependency
	kindAck
)

func newTxnCommand(k kind) Command {
	switch k {
	case kindDeclare:
		return new(Declare)
	case kindLease:
		return new(Lease)
	case kindRelease:
		return new(Release)
	case kindDecide:
		return new(Decide)
	case kindHold:
		return new(Hold)
	case kindResolve:
		return new(Resolve)
	case kindDoubt:
		return new(Doubt)
	case kindAttach:
		return new(Attach)
	case kindRollback:
		return new(Rollback)
	case kindSaga:
		return new(Saga)
	case kindSagaAsk:
		return new(SagaAsk)
	case kindStepEnded:
		return new(StepEnded)
	case kindWatch:
		return new(Watch)
	case kindDependency:
		return new(Dependency)
	case kindAck:
		return new(Ack)
	case kindRecall:
		return new(Recall)
	case kindSteal:
		return new(Steal)
	}
	return nil
}

// Declare is Submit with terms. If Terms.Self, the agent that declares the
// task performs it: it is given the lease at once if nothing stands against
// it, and declaring it again says how it stands.
type Declare struct {
	ID          TaskID
	RequestHash [32]byte
	Spec        Spec
	Terms       Terms
	Agent       string // Self: who declares it
	Node        string // where
	Instance    string // which of its processes; empty: it does not say
}

func (*Declare) kind() kind { return kindDeclare }

// Append implements Command.
func (c *Declare) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindDeclare), c.ID[:]...)
	dst = append(dst, c.RequestHash[:]...)
	dst = c.Terms.Append(c.Spec.Append(dst))
	return appendString(appendString(appendString(dst, c.Agent), c.Node), c.Instance)
}

func (c *Declare) read(r *reader) {
	var v specView
	r.fixed(c.ID[:])
	r.fixed(c.RequestHash[:])
	if v.read(r); r.err == nil {
		c.Spec = v.spec(r.alias)
	}
	c.Terms.read(r)
	c.Agent, c.Node, c.Instance = r.string(), r.string(), r.string()
}

// Lease gives a ready declared task to an agent, before the agent hears of it.
// The ledger makes the epoch.
type Lease struct {
	ID                    TaskID
	Agent, Node, Instance string
}

func (*Lease) kind() kind { return kindLease }

// Append implements Command.
func (c *Lease) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindLease), c.ID[:]...)
	return appendString(appendString(appendString(dst, c.Agent), c.Node), c.Instance)
}

func (c *Lease) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Node, c.Instance = r.string(), r.string(), r.string()
}

// Release takes a replicated lease back of which the agent certainly never
// heard; no attempt is counted.
type Release struct {
	ID    TaskID
	Agent string
	Epoch uint64
}

func (*Release) kind() kind { return kindRelease }

// Append implements Command.
func (c *Release) Append(dst []byte) []byte {
	return appendUint(appendString(append(appendHead(dst, kindRelease), c.ID[:]...), c.Agent), c.Epoch)
}

func (c *Release) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch = r.string(), r.uint()
}

// Decide approves or rejects a task that waits for it.
type Decide struct {
	ID     TaskID
	By     string
	Digest [32]byte // of the request that was looked at; zero: the one the ID names
	Reject bool
	Reason string
}

func (*Decide) kind() kind { return kindDecide }

// Append implements Command.
func (c *Decide) Append(dst []byte) []byte {
	dst = appendString(append(appendHead(dst, kindDecide), c.ID[:]...), c.By)
	return appendString(appendBool(appendHash(dst, &c.Digest), c.Reject), c.Reason)
}

func (c *Decide) read(r *reader) {
	r.fixed(c.ID[:])
	c.By = r.string()
	r.hash(&c.Digest)
	c.Reject, c.Reason = r.bool(), r.text()
}

// Hold sends a ready task back for approval: a rule that was not there when it
// was declared asks for it.
type Hold struct {
	ID         TaskID
	Approvers  uint32
	Rule, Pack string
}

func (*Hold) kind() kind { return kindHold }

// Append implements Command.
func (c *Hold) Append(dst []byte) []byte {
	dst = appendUint(append(appendHead(dst, kindHold), c.ID[:]...), uint64(c.Approvers))
	return appendString(appendString(dst, c.Rule), c.Pack)
}

func (c *Hold) read(r *reader) {
	r.fixed(c.ID[:])
	c.Approvers, c.Rule, c.Pack = r.uint32(), r.string(), r.string()
}

// Resolve is a human's word on a task in doubt, or on one whose rollback
// failed.
type Resolve struct {
	ID       TaskID
	By       string
	As       Resolution
	Evidence string
	Result   []byte // JSON, of what was done
}

func (*Resolve) kind() kind { return kindResolve }

// Append implements Command.
func (c *Resolve) Append(dst []byte) []byte {
	dst = appendString(append(appendHead(dst, kindResolve), c.ID[:]...), c.By)
	return appendBytes(appendString(append(dst, uint8(c.As)), c.Evidence), c.Result)
}

func (c *Resolve) read(r *reader) {
	r.fixed(c.ID[:])
	c.By, c.As, c.Evidence, c.Result = r.string(), Resolution(r.u8()), r.text(), r.bytes()
}

// Doubt is the holder's word that it can't tell whether the effect happened.
type Doubt struct {
	ID     TaskID
	Agent  string
	Epoch  uint64
	Reason string
	Node   string
}

func (*Doubt) kind() kind { return kindDoubt }

// Append implements Command.
func (c *Doubt) Append(dst []byte) []byte {
	dst = appendUint(appendString(append(appendHead(dst, kindDoubt), c.ID[:]...), c.Agent), c.Epoch)
	return appendString(appendString(dst, c.Reason), c.Node)
}

func (c *Doubt) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch, c.Reason, c.Node = r.string(), r.uint(), r.text(), r.string()
}

// Attach saves a task checkpoint, or the target's state before the effect.
type Attach struct {
	ID       TaskID
	Agent    string
	Epoch    uint64
	Snapshot bool
	Version  uint64 // of the checkpoint; 0: the next one
	State    []byte // JSON
	Node     string
}

func (*Attach) kind() kind { return kindAttach }

// Append implements Command.
func (c *Attach) Append(dst []byte) []byte {
	dst = appendUint(appendString(append(appendHead(dst, kindAttach), c.ID[:]...), c.Agent), c.Epoch)
	return appendString(appendBytes(appendUint(appendBool(dst, c.Snapshot), c.Version), c.State), c.Node)
}

func (c *Attach) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch = r.string(), r.uint()
	c.Snapshot, c.Version, c.State, c.Node = r.bool(), r.uint(), r.bytes(), r.string()
}

// Rollback asks that a task's effect be undone: by a person, or by the saga it
// is a step of.
type Rollback struct {
	ID         TaskID
	By, Reason string
	Saga       TaskID // zero: a person asks
}

func (*Rollback) kind() kind { return kindRollback }

// Append implements Command.
func (c *Rollback) Append(dst []byte) []byte {
	dst = appendString(append(appendHead(dst, kindRollback), c.ID[:]...), c.By)
	return append(appendString(dst, c.Reason), c.Saga[:]...)
}

func (c *Rollback) read(r *reader) {
	r.fixed(c.ID[:])
	c.By, c.Reason = r.string(), r.text()
	r.fixed(c.Saga[:])
}

// Saga undoes the steps of a session in the order given, one after the other.
type Saga struct {
	ID             TaskID
	Fleet, Session string
	Steps          []TaskID
	By, Reason     string
	Cause          TaskID // the step whose failure asked for it; zero: a person did
}

func (*Saga) kind() kind { return kindSaga }

// Append implements Command.
func (c *Saga) Append(dst []byte) []byte {
	dst = appendString(append(appendHead(dst, kindSaga), c.ID[:]...), c.Fleet)
	dst = appendIDs(appendString(dst, c.Session), c.Steps)
	return append(appendString(appendString(dst, c.By), c.Reason), c.Cause[:]...)
}

func (c *Saga) read(r *reader) {
	r.fixed(c.ID[:])
	c.Fleet, c.Session, c.Steps = r.string(), r.string(), readIDs(r)
	c.By, c.Reason = r.string(), r.text()
	r.fixed(c.Cause[:])
}

// SagaAsk is a letter to the nodes, not to a shard: who delivers it gathers
// the steps of the session and proposes a Saga.
type SagaAsk struct {
	Fleet, Session string
	Cause          TaskID
}

func (*SagaAsk) kind() kind { return kindSagaAsk }

// Append implements Command.
func (c *SagaAsk) Append(dst []byte) []byte {
	return append(appendString(appendString(appendHead(dst, kindSagaAsk), c.Fleet), c.Session), c.Cause[:]...)
}

func (c *SagaAsk) read(r *reader) {
	c.Fleet, c.Session = r.string(), r.string()
	r.fixed(c.Cause[:])
}

// StepEnded tells a saga what became of a step.
type StepEnded struct {
	Saga, Step TaskID
	State      State // 0: there is no such task
	Stuck      bool  // its rollback failed
}

func (*StepEnded) kind() kind { return kindStepEnded }

// Append implements Command.
func (c *StepEnded) Append(dst []byte) []byte {
	dst = append(append(appendHead(dst, kindStepEnded), c.Saga[:]...), c.Step[:]...)
	return appendBool(append(dst, uint8(c.State)), c.Stuck)
}

func (c *StepEnded) read(r *reader) {
	r.fixed(c.Saga[:])
	r.fixed(c.Step[:])
	c.State, c.Stuck = State(r.u8()), r.bool()
}

// Watch asks a task's shard to tell a dependent when it ends.
type Watch struct{ ID, Dependent TaskID }

func (*Watch) kind() kind { return kindWatch }

// Append implements Command.
func (c *Watch) Append(dst []byte) []byte {
	return append(append(appendHead(dst, kindWatch), c.ID[:]...), c.Dependent[:]...)
}

func (c *Watch) read(r *reader) {
	r.fixed(c.ID[:])
	r.fixed(c.Dependent[:])
}

// Dependency tells a dependent how a task it waits for ended.
type Dependency struct {
	ID, On TaskID
	State  State // 0: there is no such task
}

func (*Dependency) kind() kind { return kindDependency }

// Append implements Command.
func (c *Dependency) Append(dst []byte) []byte {
	return append(append(append(appendHead(dst, kindDependency), c.ID[:]...), c.On[:]...), uint8(c.State))
}

func (c *Dependency) read(r *reader) {
	r.fixed(c.ID[:])
	r.fixed(c.On[:])
	c.State = State(r.u8())
}

// Ack says that letters of the outbox were delivered.
type Ack struct{ Seqs []uint64 }

func (*Ack) kind() kind { return kindAck }

// Append implements Command.
func (c *Ack) Append(dst []byte) []byte {
	dst = appendUint(appendHead(dst, kindAck), uint64(len(c.Seqs)))
	for _, s := range c.Seqs {
		dst = appendUint(dst, s)
	}
	return dst
}

func (c *Ack) read(r *reader) {
	if n := r.count(1); n > 0 {
		c.Seqs = make([]uint64, n)
	}
	for i := range c.Seqs {
		c.Seqs[i] = r.uint()
	}
}
