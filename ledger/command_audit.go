package ledger

import "fmt"

// AuditFormat sets the version that the shard's audit records are written in
// from here on. A log from before version 2 has no such command, so it gives
// the records that it gave then; a leader that finds a shard behind
// [AuditFormatNow] proposes it. It is a command of both kinds of shard.
type AuditFormat struct{ Version uint8 }

// AuditFormatNow is the newest version of records this package writes.
const AuditFormatNow = recordVersion2

func (*AuditFormat) kind() kind { return kindAuditFormat }

// Append implements Command.
func (c *AuditFormat) Append(dst []byte) []byte {
	return append(appendHead(dst, kindAuditFormat), c.Version)
}

func (c *AuditFormat) read(r *reader) {
	// A replica that does not know the version has to stop: others go on in it.
	if c.Version = r.u8(); c.Version > AuditFormatNow {
		r.fail(fmt.Sprintf("audit records of version %d are not known", c.Version))
	}
}

// setFormat switches the journal; a version that is not newer changes nothing.
func (j *journal) setFormat(c *AuditFormat, index uint64, now int64) Outcome {
	if c.Version <= j.format {
		return Outcome{Replayed: true}
	}
	j.format = c.Version
	j.write(&Record{Verb: VerbAuditFormat, Index: index, TimeMillis: now, Detail: fmt.Sprintf("version %d", c.Version)})
	return Outcome{}
}

// AuditVersion is the version the shard's audit records are written in.
func (t *Tasks) AuditVersion() uint8 { return t.journal.format }

// AuditVersion is the version the shard's audit records are written in.
func (c *Control) AuditVersion() uint8 { return c.journal.format }
