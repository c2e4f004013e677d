package ledger

import (
	"encoding/binary"
	"fmt"
)

// Record is one entry of a shard's audit log: a change of state, or a refusal
// that matters. Fields that do not apply are zero.
//
// Canonical bytes of version 2 are described in record2.go. Those of version
// 1, which have no room for what stands below Detail (numbers and text as described in wire.go; fixed
// integers are big-endian; times are milliseconds since the Unix epoch):
//
//	offset  size  field
//	0       1     version, 1
//	1       4     shard
//	5       8     seq: dense within the shard, from 1
//	13      8     index of the log entry
//	21      8     ledger time
//	29      16    task ID (zero: about no task)
//	45      1     guarantee (0: none, 1 best_effort, 2 at_least_once, 3 exactly_once)
//	46      1     state before (0: none; numbers as the State constants)
//	47      1     state after
//	48      1     code (0: done; numbers as the Code constants)
//	49      …     epoch, attempt  (numbers), assigned at, started at  (signed numbers; 0: not known)
//	        …     verb, fleet, capability (action:target), agent, actor, stolen from  (text)
//	        …     request digest, result digest  (each 1 byte length, 0 or 32, and the bytes)
//	        …     detail  (text)
//
// In the journal each record of version 1 is followed by 32 bytes of chain hash:
//
//	h(0) = SHA-256("quorate audit v1" || shard as 4 bytes)
//	h(n) = SHA-256(h(n-1) || canonical bytes of record n)
//
// The request digest is the submitted request's ([RequestHash]); the result
// digest is SHA-256 over the result as the agent sent it, or of an agent's
// manifest.
type Record struct {
	Shard          uint32
	Seq            uint64
	Index          uint64
	TimeMillis     int64
	Task           TaskID
	Guarantee      Guarantee
	From, To       State
	Code           Code
	Epoch          uint64
	Attempt        uint32
	AssignedMillis int64
	StartedMillis  int64
	Verb           string
	Fleet          string
	Capability     string // action:target
	Agent          string
	Actor          string // who asked for it: a submitter, an operator, the agent's node
	StolenFrom     string
	RequestDigest  [32]byte
	ResultDigest   [32]byte
	Detail         string

	// Version 2.
	Approver       string // approve, reject, resolve: by whom
	Session        string
	FromLoad       uint32   // stolen: thousandths of StolenFrom's load then
	ToLoad         uint32   // and of Agent's
	ParamsDigest   [32]byte // of what an effect is done with
	Parent         TaskID
	VerifyTask     TaskID // the task that asks whether it happened
	RollbackTask   TaskID // the task that compensates it
	Classification string // of the data touched
	Regulations    []string
	Pack           string // rule pack that decided, with its version: id@version
	Evidence       string // what a person gave as the reason to believe
}

// The verbs of records.
const (
	VerbSubmit          = "submit"
	VerbComplete        = "complete"
	VerbFail            = "fail"
	VerbExpire          = "expire"
	VerbDue             = "due"
	VerbTimeout         = "timeout"
	VerbCancel          = "cancel"
	VerbRetry           = "retry"
	VerbDeclare         = "declare"
	VerbLease           = "lease"
	VerbRelease         = "release"
	VerbStolen          = "stolen" // Agent has it now, StolenFrom had it, with both loads
	VerbApprove         = "approve"
	VerbReject          = "reject"
	VerbHold            = "hold"
	VerbResolve         = "resolve"
	VerbDoubt           = "doubt"
	VerbCheckpoint      = "checkpoint"
	VerbSnapshot        = "snapshot"
	VerbVerified        = "verified"
	VerbRollback        = "rollback"
	VerbRolledBack      = "rolled_back"
	VerbSaga            = "saga"
	VerbDependency      = "dependency"
	VerbRefused         = "refused" // Detail is the verb that was refused, Code why
	VerbClusterInit     = "cluster_init"
	VerbNodeUp          = "node_up"
	VerbNodeRemove      = "node_remove"
	VerbPlacementInit   = "placement_init"
	VerbNodeAdmit       = "node_admit"
	VerbNodeUninvite    = "node_uninvite"
	VerbNodeJoin        = "node_join"
	VerbNodeState       = "node_state"
	VerbNodeRetire      = "node_retire"
	VerbAgentRegister   = "agent_register"
	VerbAgentState      = "agent_state"
	VerbAgentDeregister = "agent_deregister"
	VerbClusterRestored = "cluster_restored" // of the shard, and of each task it put in doubt
	VerbAuditFormat     = "audit_format"
	VerbNodeKey         = "node_key"
	VerbErase           = "erase"
	VerbEvict           = "evict"
	VerbFleetRetention  = "fleet_retention"
	VerbCompliance      = "compliance" // what rule packs decided about an intent
	VerbPackPut         = "pack_put"
	VerbPackRemove      = "pack_remove"
	VerbFleetBind       = "fleet_bind"
)

const (
	recordVersion1  = 1
	recordVersion2  = 2
	recordFixedSize = 49
)

// appendFixed writes the head that both versions have.
func (r *Record) appendFixed(dst []byte, version uint8) []byte {
	dst = append(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, r.Shard)
	dst = binary.BigEndian.AppendUint64(dst, r.Seq)
	dst = binary.BigEndian.AppendUint64(dst, r.Index)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.TimeMillis))
	dst = append(dst, r.Task[:]...)
	return append(dst, uint8(r.Guarantee), uint8(r.From), uint8(r.To), uint8(r.Code))
}

// appendV1 writes the record's canonical bytes of version 1.
func (r *Record) appendV1(dst []byte) []byte {
	dst = r.appendFixed(dst, recordVersion1)
	dst = appendUint(dst, r.Epoch)
	dst = appendUint(dst, uint64(r.Attempt))
	dst = appendInt(dst, r.AssignedMillis)
	dst = appendInt(dst, r.StartedMillis)
	dst = appendString(dst, r.Verb)
	dst = appendString(dst, r.Fleet)
	dst = appendString(dst, r.Capability)
	dst = appendString(dst, r.Agent)
	dst = appendString(dst, r.Actor)
	dst = appendString(dst, r.StolenFrom)
	dst = appendHash(dst, &r.RequestDigest)
	dst = appendHash(dst, &r.ResultDigest)
	return appendString(dst, r.Detail)
}

// DecodeRecord reads the canonical bytes of a record, of any version, that
// fill b.
func DecodeRecord(b []byte) (*Record, error) {
	r := newReader(b)
	x, err := readRecord(&r)
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: record: %w", err)
	}
	return x, nil
}

func readRecord(r *reader) (*Record, error) {
	if len(r.b) < recordFixedSize {
		r.fail("truncated")
		return nil, r.err
	}
	b := r.b
	if b[0] != recordVersion1 && b[0] != recordVersion2 {
		r.fail(fmt.Sprintf("record version %d is not known", b[0]))
		return nil, r.err
	}
	x := &Record{Shard: binary.BigEndian.Uint32(b[1:]), Seq: binary.BigEndian.Uint64(b[5:]), Index: binary.BigEndian.Uint64(b[13:]),
		TimeMillis: int64(binary.BigEndian.Uint64(b[21:])), Task: TaskID(b[29:45]),
		Guarantee: Guarantee(b[45]), From: State(b[46]), To: State(b[47]), Code: Code(b[48])}
	if x.Guarantee > ExactlyOnce || x.From >= stateEnd || x.To >= stateEnd || x.Code >= codeEnd {
		r.fail("a word is out of range")
		return nil, r.err
	}
	r.b = b[recordFixedSize:]
	if b[0] == recordVersion1 {
		x.readV1(r)
	} else {
		x.readV2(r)
	}
	return x, r.err
}

func (r *Record) readV1(in *reader) {
	r.Epoch, r.Attempt, r.AssignedMillis, r.StartedMillis = in.uint(), in.uint32(), in.int(), in.int()
	r.Verb, r.Fleet, r.Capability = in.string(), in.string(), in.string()
	r.Agent, r.Actor, r.StolenFrom = in.string(), in.string(), in.string()
	in.hash(&r.RequestDigest)
	in.hash(&r.ResultDigest)
	r.Detail = in.string()
}
