package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// MinRecordMillis is the shortest that audit records may live: nothing that is
// under way reads them. The longest is MaxRetentionMillis, and as many fleets
// as may have a retention may have one for their records.
const MinRecordMillis = 1000

// RecordRetention is how long a fleet's audit records stay in the journals
// that replicas keep. A journal goes from its beginning on, so a record stays
// until all before it may go, too.
type RecordRetention struct {
	Fleet     string // or EveryFleet: also of records that name no fleet
	Millis    int64  // after it was written; 0: for ever
	Drop      bool   // without an archive
	By        string
	SetMillis int64
}

// FleetRecords sets how long a fleet's records stay, or removes it: then that
// of [EveryFleet] counts, or for ever.
type FleetRecords struct {
	Fleet  string
	Remove bool
	Millis int64
	Drop   bool
	By     string
}

func (*FleetRecords) kind() kind { return kindFleetRecords }

// Append implements Command.
func (c *FleetRecords) Append(dst []byte) []byte {
	dst = appendBool(appendString(appendHead(dst, kindFleetRecords), c.Fleet), c.Remove)
	return appendString(appendBool(appendInt(dst, c.Millis), c.Drop), c.By)
}

func (c *FleetRecords) read(r *reader) {
	c.Fleet, c.Remove = r.string(), r.bool()
	c.Millis, c.Drop, c.By = r.int(), r.bool(), r.string()
}

// RecordRetentions are how long the fleets' records stay, by fleet.
func (c *Control) RecordRetentions() []RecordRetention { return slices.Clone(c.recordRetentions) }

func (c *Control) recordsAt(fleet string) (int, bool) {
	return slices.BinarySearchFunc(c.recordRetentions, fleet, func(p RecordRetention, fleet string) int { return strings.Compare(p.Fleet, fleet) })
}

func (c *Control) fleetRecords(x *FleetRecords) Outcome {
	i, known := c.recordsAt(x.Fleet)
	switch {
	case x.Fleet == "" || max(len(x.Fleet), len(x.By)) > maxNameBytes:
		return invalid("the fleet's name is missing, or a name is too long")
	case x.Millis != 0 && (x.Millis < MinRecordMillis || x.Millis > MaxRetentionMillis):
		return invalid(fmt.Sprintf("records that live %d ms: want 0, for ever, or %d to %d", x.Millis, MinRecordMillis, int64(MaxRetentionMillis)))
	case x.Drop && x.Millis == 0:
		return invalid("records that live for ever are not dropped without an archive")
	case x.Remove && !known, !x.Remove && known && c.recordRetentions[i].Millis == x.Millis && c.recordRetentions[i].Drop == x.Drop:
		return Outcome{Replayed: true}
	case !known && len(c.recordRetentions) == MaxRetentionFleets:
		return invalid(fmt.Sprintf("%d fleets have a retention of their records, the most that may", MaxRetentionFleets))
	}
	detail := fmt.Sprintf("records %d ms", x.Millis)
	if x.Drop {
		detail += ", dropped without an archive"
	}
	p := RecordRetention{Fleet: x.Fleet, Millis: x.Millis, Drop: x.Drop, By: x.By, SetMillis: c.now}
	switch {
	case x.Remove:
		detail = "records: removed"
		c.recordRetentions = slices.Delete(c.recordRetentions, i, i+1)
	case known:
		c.recordRetentions[i] = p
	default:
		c.recordRetentions = slices.Insert(c.recordRetentions, i, p)
	}
	c.touch(rowRecords, x.Fleet)
	c.record(Record{Verb: VerbFleetRetention, Actor: x.By, Fleet: x.Fleet, Detail: detail})
	return Outcome{}
}

func (p *RecordRetention) append(dst []byte) []byte {
	dst = appendBool(appendInt(appendString(dst, p.Fleet), p.Millis), p.Drop)
	return appendInt(appendString(dst, p.By), p.SetMillis)
}

func (p *RecordRetention) read(r *reader) {
	p.Fleet, p.Millis, p.Drop = r.string(), r.int(), r.bool()
	p.By, p.SetMillis = r.string(), r.int()
}
