package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// EveryFleet is the name under which the retention of fleets without one of
// their own is set.
const EveryFleet = "*"

// Limits of retention. The shortest is longer than any call, or repeat of one,
// is under way; the longest keeps sums of times far from overflow.
const (
	MinRetentionMillis = 60_000
	MaxRetentionMillis = 100 * 365 * 24 * 3600 * 1000
	MaxRetentionFleets = 1 << 10
)

// Retention is how long a fleet's ended tasks stay. A key answers with its
// task's stored result, so a task with a key stays for the longer of the two.
type Retention struct {
	Fleet      string // or EveryFleet
	TaskMillis int64  // after the end; 0: for ever
	KeyMillis  int64  // likewise
	By         string
	SetMillis  int64
}

// FleetRetention sets a fleet's retention, or removes it: then that of
// [EveryFleet] counts, or the leaders' own default.
type FleetRetention struct {
	Fleet      string
	Remove     bool
	TaskMillis int64
	KeyMillis  int64
	By         string
}

func (*FleetRetention) kind() kind { return kindFleetRetention }

// Append implements Command.
func (c *FleetRetention) Append(dst []byte) []byte {
	dst = appendBool(appendString(appendHead(dst, kindFleetRetention), c.Fleet), c.Remove)
	return appendString(appendInt(appendInt(dst, c.TaskMillis), c.KeyMillis), c.By)
}

func (c *FleetRetention) read(r *reader) {
	c.Fleet, c.Remove = r.string(), r.bool()
	c.TaskMillis, c.KeyMillis, c.By = r.int(), r.int(), r.string()
}

// Retentions are the fleets' retentions, by fleet.
func (c *Control) Retentions() []Retention { return slices.Clone(c.retentions) }

// KeepMillis is how long an ended task is kept; 0: for ever.
func (p *Retention) KeepMillis(keyed bool) int64 {
	switch {
	case p.TaskMillis == 0 || keyed && p.KeyMillis == 0:
		return 0
	case keyed:
		return max(p.TaskMillis, p.KeyMillis)
	}
	return p.TaskMillis
}

func (c *Control) retentionAt(fleet string) (int, bool) {
	return slices.BinarySearchFunc(c.retentions, fleet, func(p Retention, fleet string) int { return strings.Compare(p.Fleet, fleet) })
}

func (c *Control) fleetRetention(x *FleetRetention) Outcome {
	i, known := c.retentionAt(x.Fleet)
	switch {
	case x.Fleet == "" || max(len(x.Fleet), len(x.By)) > maxNameBytes:
		return invalid("the fleet's name is missing, or a name is too long")
	case badRetention(x.TaskMillis) || badRetention(x.KeyMillis):
		return invalid(fmt.Sprintf("a retention of %d and %d ms: want 0, for ever, or %d to %d", x.TaskMillis, x.KeyMillis, MinRetentionMillis, int64(MaxRetentionMillis)))
	case x.Remove && !known, !x.Remove && known && c.retentions[i].TaskMillis == x.TaskMillis && c.retentions[i].KeyMillis == x.KeyMillis:
		return Outcome{Replayed: true}
	case !known && len(c.retentions) == MaxRetentionFleets:
		return invalid(fmt.Sprintf("%d fleets have a retention, the most that may", MaxRetentionFleets))
	}
	detail := fmt.Sprintf("tasks %d ms, keys %d ms", x.TaskMillis, x.KeyMillis)
	p := Retention{Fleet: x.Fleet, TaskMillis: x.TaskMillis, KeyMillis: x.KeyMillis, By: x.By, SetMillis: c.now}
	switch {
	case x.Remove:
		detail = "removed"
		c.retentions = slices.Delete(c.retentions, i, i+1)
	case known:
		c.retentions[i] = p
	default:
		c.retentions = slices.Insert(c.retentions, i, p)
	}
	c.touch(rowRetention, x.Fleet)
	c.record(Record{Verb: VerbFleetRetention, Actor: x.By, Fleet: x.Fleet, Detail: detail})
	return Outcome{}
}

func badRetention(ms int64) bool {
	return ms != 0 && (ms < MinRetentionMillis || ms > MaxRetentionMillis)
}

func (p *Retention) append(dst []byte) []byte {
	dst = appendInt(appendInt(appendString(dst, p.Fleet), p.TaskMillis), p.KeyMillis)
	return appendInt(appendString(dst, p.By), p.SetMillis)
}

func (p *Retention) read(r *reader) {
	p.Fleet, p.TaskMillis, p.KeyMillis = r.string(), r.int(), r.int()
	p.By, p.SetMillis = r.string(), r.int()
}
