package ledger

import (
	"fmt"
)

// Command is one decision asked of the ledger, the unit of the replicated
// log. Encoded: version u8, kind u8, the fields in the order they are
// declared in. A version or kind that is not known is refused, never guessed;
// the encodings of every released version stay decodable.
type Command interface {
	// Append writes the command's encoding.
	Append(dst []byte) []byte
	read(r *reader)
	kind() kind
}

const commandVersion = 1

// MaxCommandBytes bounds an encoded command: seven JSON fields of 1 MiB, the
// default payload limit, with room for a raised one.
const MaxCommandBytes = 16 << 20

// kind numbers are part of the codec: they never change.
type kind uint8

const (
	kindSubmit kind = iota + 1
	kindComplete
	kindFail
	kindExpire
	kindDue
	kindTimeout
	kindCancel
	kindRetry
	kindRefused
)

// Audit and retention, on both kinds of shard where it says so.
const (
	kindAuditFormat kind = iota + 40
	kindErase
	kindEvict
	kindEvictSettled
	kindRecall
)

const (
	kindClusterInit kind = iota + 64
	kindNodeUp
	kindNodeRemove
	kindAgentRegister
	kindAgentState
	kindAgentDeregister
)

const (
	kindNodeKey kind = iota + 90
	kindFleetRetention
	kindFleetRecords
)

func newCommand(k kind) Command {
	switch k {
	case kindSubmit:
		return new(Submit)
	case kindComplete:
		return new(Complete)
	case kindFail:
		return new(Fail)
	case kindExpire:
		return new(Expire)
	case kindDue:
		return new(Due)
	case kindTimeout:
		return new(Timeout)
	case kindCancel:
		return new(Cancel)
	case kindRetry:
		return new(Retry)
	case kindRefused:
		return new(Refused)
	case kindNodeKey:
		return new(NodeKey)
	case kindEvict:
		return new(Evict)
	case kindEvictSettled:
		return new(EvictSettled)
	case kindFleetRetention:
		return new(FleetRetention)
	case kindFleetRecords:
		return new(FleetRecords)
	case kindErase:
		return new(Erase)
	case kindAuditFormat:
		return new(AuditFormat)
	case kindClusterInit:
		return new(ClusterInit)
	case kindNodeUp:
		return new(NodeUp)
	case kindNodeRemove:
		return new(NodeRemove)
	case kindAgentRegister:
		return new(AgentRegister)
	case kindAgentState:
		return new(AgentState)
	case kindAgentDeregister:
		return new(AgentDeregister)
	case kindClusterRestored:
		return new(ClusterRestored)
	}
	if c := memberCommand(k); c != nil {
		return c
	}
	if k >= kindPackPut {
		return newPackCommand(k)
	}
	return newTxnCommand(k)
}

// DecodeCommand reads one encoded command that fills b. Nothing of b is kept.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) > MaxCommandBytes {
		return nil, fmt.Errorf("ledger: command of %d bytes, at most %d: %w", len(b), MaxCommandBytes, ErrMalformed)
	}
	r := newReader(b)
	c := newCommand(readHead(&r))
	if r.err == nil && c == nil {
		return nil, fmt.Errorf("ledger: command kind %d is not known: %w", b[1], ErrMalformed)
	}
	if c != nil {
		c.read(&r)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("ledger: command: %w", err)
	}
	return c, nil
}

// readHead takes the version and returns the kind.
func readHead(r *reader) kind {
	if v := r.u8(); r.err == nil && v != commandVersion {
		r.fail(fmt.Sprintf("command version %d is not known", v))
	}
	return kind(r.u8())
}

func appendHead(dst []byte, k kind) []byte { return append(dst, commandVersion, uint8(k)) }

// Submit declares a task. A second Submit with the same fleet and key (or,
// without a key, the same ID) answers the first one's task.
type Submit struct {
	ID          TaskID   // of this shard, never used before
	RequestHash [32]byte // RequestHash(&Spec)
	Spec        Spec
}

func (*Submit) kind() kind { return kindSubmit }

// Append implements Command.
func (c *Submit) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindSubmit), c.ID[:]...)
	dst = append(dst, c.RequestHash[:]...)
	return c.Spec.Append(dst)
}

func (c *Submit) read(r *reader) {
	var v specView
	r.fixed(c.ID[:])
	r.fixed(c.RequestHash[:])
	if v.read(r); r.err == nil {
		c.Spec = v.spec(r.alias)
	}
}

// Complete ends a task's attempt with success.
type Complete struct {
	ID             TaskID
	Agent          string
	Epoch          uint64
	Result         []byte // JSON
	AssignedMillis int64  // as the shard leader's lease says; 0: not known
	StartedMillis  int64
	StolenFrom     string // node or worker the task was taken from
	Node           string // where the agent is connected
}

func (*Complete) kind() kind { return kindComplete }

// Append implements Command.
func (c *Complete) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindComplete), c.ID[:]...)
	dst = appendString(dst, c.Agent)
	dst = appendUint(dst, c.Epoch)
	dst = appendBytes(dst, c.Result)
	dst = appendInt(dst, c.AssignedMillis)
	dst = appendInt(dst, c.StartedMillis)
	dst = appendString(dst, c.StolenFrom)
	return appendString(dst, c.Node)
}

func (c *Complete) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch, c.Result = r.string(), r.uint(), r.bytes()
	c.AssignedMillis, c.StartedMillis = r.int(), r.int()
	c.StolenFrom, c.Node = r.string(), r.string()
}

// Fail ends a task's attempt without success. The task is tried again if it
// is Retryable and the policy has attempts left.
type Fail struct {
	ID             TaskID
	Agent          string
	Epoch          uint64
	Result         []byte // JSON, what there is of it
	Error          string
	Retryable      bool
	AssignedMillis int64
	StartedMillis  int64
	StolenFrom     string
	Node           string
}

func (*Fail) kind() kind { return kindFail }

// Append implements Command.
func (c *Fail) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindFail), c.ID[:]...)
	dst = appendString(dst, c.Agent)
	dst = appendUint(dst, c.Epoch)
	dst = appendBytes(dst, c.Result)
	dst = appendString(dst, c.Error)
	dst = appendBool(dst, c.Retryable)
	dst = appendInt(dst, c.AssignedMillis)
	dst = appendInt(dst, c.StartedMillis)
	dst = appendString(dst, c.StolenFrom)
	return appendString(dst, c.Node)
}

func (c *Fail) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch, c.Result = r.string(), r.uint(), r.bytes()
	c.Error, c.Retryable = r.text(), r.bool()
	c.AssignedMillis, c.StartedMillis = r.int(), r.int()
	c.StolenFrom, c.Node = r.string(), r.string()
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Expire ends an attempt whose holder fell silent or is gone. It carries the
// lease the proposer saw; if that is not newer than what the ledger knows,
// nothing happens.
type Expire struct {
	ID     TaskID
	Agent  string
	Epoch  uint64
	Reason Reason
}

func (*Expire) kind() kind { return kindExpire }

// Append implements Command.
func (c *Expire) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindExpire), c.ID[:]...)
	dst = appendString(dst, c.Agent)
	dst = appendUint(dst, c.Epoch)
	return append(dst, uint8(c.Reason))
}

func (c *Expire) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch, c.Reason = r.string(), r.uint(), Reason(r.u8())
}

// Due makes a submitted task ready if its delay has passed by ledger time.
type Due struct{ ID TaskID }

func (*Due) kind() kind { return kindDue }

// Append implements Command.
func (c *Due) Append(dst []byte) []byte { return append(appendHead(dst, kindDue), c.ID[:]...) }

func (c *Due) read(r *reader) { r.fixed(c.ID[:]) }

// Timeout ends a task whose deadline has passed by ledger time.
type Timeout struct{ ID TaskID }

func (*Timeout) kind() kind { return kindTimeout }

// Append implements Command.
func (c *Timeout) Append(dst []byte) []byte { return append(appendHead(dst, kindTimeout), c.ID[:]...) }

func (c *Timeout) read(r *reader) { r.fixed(c.ID[:]) }

// Cancel ends a task that has not ended.
type Cancel struct {
	ID     TaskID
	By     string
	Reason string
}

func (*Cancel) kind() kind { return kindCancel }

// Append implements Command.
func (c *Cancel) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindCancel), c.ID[:]...)
	return appendString(appendString(dst, c.By), c.Reason)
}

func (c *Cancel) read(r *reader) {
	r.fixed(c.ID[:])
	c.By, c.Reason = r.string(), r.text()
}

// Retry makes a failed, timed out or cancelled task ready again, with all its
// attempts; epochs go on.
type Retry struct {
	ID TaskID
	By string
}

func (*Retry) kind() kind { return kindRetry }

// Append implements Command.
func (c *Retry) Append(dst []byte) []byte {
	return appendString(append(appendHead(dst, kindRetry), c.ID[:]...), c.By)
}

func (c *Retry) read(r *reader) {
	r.fixed(c.ID[:])
	c.By = r.string()
}

// Refused records that the shard's leader turned a call down without asking
// the log: a stale epoch, seen against its leases.
type Refused struct {
	ID    TaskID
	Agent string
	Epoch uint64
	Verb  string // what was refused: start, renew, progress, complete, fail
	Code  Code
}

func (*Refused) kind() kind { return kindRefused }

// Append implements Command.
func (c *Refused) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindRefused), c.ID[:]...)
	dst = appendString(dst, c.Agent)
	dst = appendUint(dst, c.Epoch)
	return append(appendString(dst, c.Verb), uint8(c.Code))
}

func (c *Refused) read(r *reader) {
	r.fixed(c.ID[:])
	c.Agent, c.Epoch, c.Verb, c.Code = r.string(), r.uint(), r.string(), Code(r.u8())
}
