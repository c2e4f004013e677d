package ledger

// Command is a change to the ledger: one entry of the log holds several. Every
// command can be repeated without a second effect.
type Command interface {
	// Append encodes the command behind dst.
	Append(dst []byte) []byte
	decode(d *decoder)
}

// commandVersion is the first byte of every command. Logs of every version
// must replay for ever; a new version is a new number beside the old one.
const commandVersion = 1

// The kinds of command, with their numbers in the log.
const (
	kindSubmit byte = iota + 1
	kindComplete
	kindFail
	kindExpire
	kindDue
	kindTimeout
	kindCancel
	kindRetry
	kindRefused
)

// The kinds of the control shard.
const (
	kindClusterInit byte = iota + 64
	kindNodeUp
	kindAgentRegister
	kindAgentState
	kindAgentDeregister
)

// Submit declares a task.
type Submit struct {
	ID          TaskID
	RequestHash [32]byte
	Spec        Spec
}

// Complete ends a task well.
type Complete struct {
	ID                            TaskID
	Agent                         string
	Epoch                         uint64
	AssignedMillis, StartedMillis int64  // as the leader knew them; 0: not known
	StolenFrom                    string // the agent it was taken from, if any
	Node                          string // where the agent is connected
	Result                        []byte // raw JSON
}

// Fail ends an attempt; Retryable leaves it to the policy whether there is
// another.
type Fail struct {
	ID                            TaskID
	Agent                         string
	Epoch                         uint64
	AssignedMillis, StartedMillis int64
	StolenFrom                    string
	Node                          string
	Result                        []byte
	Error                         string
	Retryable                     bool
}

// Expire ends an attempt whose lease ran out or whose agent is gone.
type Expire struct {
	ID     TaskID
	Agent  string
	Epoch  uint64
	Reason string // ReasonLeaseExpired or ReasonAgentLost
}

// Due makes a delayed task ready.
type Due struct{ ID TaskID }

// Timeout ends a task whose deadline passed.
type Timeout struct{ ID TaskID }

// Cancel ends a task on request.
type Cancel struct {
	ID         TaskID
	By, Reason string
}

// Retry makes an ended, not completed task ready again.
type Retry struct {
	ID TaskID
	By string
}

// Refused records that the leader refused a holder's call.
type Refused struct {
	ID    TaskID
	Agent string
	Epoch uint64
	Verb  string
	Code  Code
}

func commandHead(b []byte, kind byte) []byte { return append(b, commandVersion, kind) }

// Append implements Command.
func (c *Submit) Append(b []byte) []byte {
	b = append(commandHead(b, kindSubmit), c.ID[:]...)
	return c.Spec.append(append(b, c.RequestHash[:]...))
}

func (c *Submit) decode(d *decoder) {
	c.ID = d.id()
	copy(c.RequestHash[:], d.fixed(32))
	c.Spec.decode(d)
}

// Append implements Command.
func (c *Complete) Append(b []byte) []byte {
	b = append(commandHead(b, kindComplete), c.ID[:]...)
	b = putUint(putBytes(b, c.Agent), c.Epoch)
	b = putInt(putInt(b, c.AssignedMillis), c.StartedMillis)
	b = putBytes(putBytes(b, c.StolenFrom), c.Node)
	return putBytes(b, c.Result)
}

func (c *Complete) decode(d *decoder) {
	c.ID, c.Agent, c.Epoch = d.id(), d.string(), d.uint()
	c.AssignedMillis, c.StartedMillis = d.int(), d.int()
	c.StolenFrom, c.Node, c.Result = d.string(), d.string(), d.bytes()
}

// Append implements Command.
func (c *Fail) Append(b []byte) []byte {
	b = append(commandHead(b, kindFail), c.ID[:]...)
	b = putUint(putBytes(b, c.Agent), c.Epoch)
	b = putInt(putInt(b, c.AssignedMillis), c.StartedMillis)
	b = putBytes(putBytes(b, c.StolenFrom), c.Node)
	b = putBytes(putBytes(b, c.Result), c.Error)
	return putBool(b, c.Retryable)
}

func (c *Fail) decode(d *decoder) {
	c.ID, c.Agent, c.Epoch = d.id(), d.string(), d.uint()
	c.AssignedMillis, c.StartedMillis = d.int(), d.int()
	c.StolenFrom, c.Node, c.Result = d.string(), d.string(), d.bytes()
	c.Error, c.Retryable = d.string(), d.bool()
}

// Append implements Command.
func (c *Expire) Append(b []byte) []byte {
	b = append(commandHead(b, kindExpire), c.ID[:]...)
	return putBytes(putUint(putBytes(b, c.Agent), c.Epoch), c.Reason)
}

func (c *Expire) decode(d *decoder) {
	c.ID, c.Agent, c.Epoch, c.Reason = d.id(), d.string(), d.uint(), d.string()
}

// Append implements Command.
func (c *Due) Append(b []byte) []byte     { return append(commandHead(b, kindDue), c.ID[:]...) }
func (c *Due) decode(d *decoder)          { c.ID = d.id() }
// Append implements Command.
func (c *Timeout) Append(b []byte) []byte { return append(commandHead(b, kindTimeout), c.ID[:]...) }
func (c *Timeout) decode(d *decoder)      { c.ID = d.id() }

// Append implements Command.
func (c *Cancel) Append(b []byte) []byte {
	return putBytes(putBytes(append(commandHead(b, kindCancel), c.ID[:]...), c.By), c.Reason)
}

func (c *Cancel) decode(d *decoder) { c.ID, c.By, c.Reason = d.id(), d.string(), d.string() }

// Append implements Command.
func (c *Retry) Append(b []byte) []byte {
	return putBytes(append(commandHead(b, kindRetry), c.ID[:]...), c.By)
}
func (c *Retry) decode(d *decoder) { c.ID, c.By = d.id(), d.string() }

// Append implements Command.
func (c *Refused) Append(b []byte) []byte {
	b = append(commandHead(b, kindRefused), c.ID[:]...)
	return append(putBytes(putUint(putBytes(b, c.Agent), c.Epoch), c.Verb), byte(c.Code))
}

func (c *Refused) decode(d *decoder) {
	c.ID, c.Agent, c.Epoch, c.Verb, c.Code = d.id(), d.string(), d.uint(), d.string(), Code(d.byte())
	if c.Code >= codeEnd {
		d.fail("code")
	}
}

// DecodeCommand reads one command. Byte fields are views into b. A version or
// kind it does not know is refused, never guessed at.
func DecodeCommand(b []byte) (Command, error) {
	d := decoder{b: b}
	if v := d.byte(); v != commandVersion && d.err == nil {
		d.fail("command version")
	}
	c := newCommand(d.byte())
	if c == nil {
		d.fail("command kind")
		return nil, d.err
	}
	c.decode(&d)
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}

func newCommand(kind byte) Command {
	switch kind {
	case kindSubmit:
		return &Submit{}
	case kindComplete:
		return &Complete{}
	case kindFail:
		return &Fail{}
	case kindExpire:
		return &Expire{}
	case kindDue:
		return &Due{}
	case kindTimeout:
		return &Timeout{}
	case kindCancel:
		return &Cancel{}
	case kindRetry:
		return &Retry{}
	case kindRefused:
		return &Refused{}
	case kindClusterInit:
		return &ClusterInit{}
	case kindNodeUp:
		return &NodeUp{}
	case kindAgentRegister:
		return &AgentRegister{}
	case kindAgentState:
		return &AgentState{}
	case kindAgentDeregister:
		return &AgentDeregister{}
	}
	return nil
}

// Outcome is what was decided about a command: a code, and where the task
// stands after it.
type Outcome struct {
	Code     Code
	Replayed bool // done before: this is the stored answer
	State    State
	ID       TaskID
	Epoch    uint64
	Detail   string
}

// Append encodes the outcome behind dst.
func (o *Outcome) Append(b []byte) []byte {
	b = append(b, commandVersion, byte(o.Code), byte(o.State))
	b = append(putBool(b, o.Replayed), o.ID[:]...)
	return putBytes(putUint(b, o.Epoch), o.Detail)
}

// DecodeOutcome reads what Append wrote.
func DecodeOutcome(b []byte) (Outcome, error) {
	d := decoder{b: b}
	if v := d.byte(); v != commandVersion && d.err == nil {
		d.fail("outcome version")
	}
	o := Outcome{Code: Code(d.byte()), State: State(d.byte()), Replayed: d.bool(), ID: d.id(), Epoch: d.uint(), Detail: d.string()}
	if o.Code >= codeEnd || o.State >= stateEnd {
		d.fail("outcome word")
	}
	return o, d.end()
}
