package ledger

import "fmt"

// Outcome answers a command: what became of it, and of the task.
type Outcome struct {
	Code     Code
	ID       TaskID // the task meant; after a replayed Submit the existing one
	State    State  // the task's afterwards
	Epoch    uint64 // the task's afterwards
	Replayed bool   // the command had been done before; nothing was changed
	Detail   string // for people
}

const outcomeVersion = 1

// Append writes the outcome's encoding: version u8, code u8, state u8,
// replayed u8, ID 16 bytes, epoch, detail.
func (o Outcome) Append(dst []byte) []byte {
	dst = append(dst, outcomeVersion, uint8(o.Code), uint8(o.State))
	dst = append(appendBool(dst, o.Replayed), o.ID[:]...)
	return appendString(appendUint(dst, o.Epoch), o.Detail)
}

// DecodeOutcome reads what Append wrote.
func DecodeOutcome(b []byte) (Outcome, error) {
	var o Outcome
	r := newReader(b)
	if v := r.u8(); r.err == nil && v != outcomeVersion {
		r.fail(fmt.Sprintf("outcome version %d is not known", v))
	}
	o.Code, o.State, o.Replayed = Code(r.u8()), State(r.u8()), r.bool()
	r.fixed(o.ID[:])
	o.Epoch, o.Detail = r.uint(), r.string()
	if err := r.end(); err != nil {
		return Outcome{}, fmt.Errorf("ledger: outcome: %w", err)
	}
	return o, nil
}
