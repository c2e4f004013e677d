package ledger

// Erase takes the payload out of an ended task: input, context, description,
// result, error, what its hooks were given or were to be given, snapshots and what was
// saved of its progress. Records never had any of it, only digests, so the
// audit log stays as it is; the request hash stays too, so that its key still
// answers. An erased task is never tried again.
//
// The log has the payload until its entries are truncated behind the next
// state checkpoints, and backups taken before keep what they have.
type Erase struct {
	ID     TaskID
	By     string
	Reason string
}

func (*Erase) kind() kind { return kindErase }

// Append implements Command.
func (c *Erase) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindErase), c.ID[:]...)
	return appendString(appendString(dst, c.By), c.Reason)
}

func (c *Erase) read(r *reader) {
	r.fixed(c.ID[:])
	c.By, c.Reason = r.string(), r.text()
}

// decideAudit decides the commands about records and payloads.
func (t *Tasks) decideAudit(k kind, r *reader) Outcome {
	if k == kindErase {
		var c Erase
		c.read(r)
		t.whole(r)
		return t.erase(&c)
	}
	if k == kindEvict {
		var c Evict
		c.read(r)
		t.whole(r)
		return t.evict(&c, false)
	}
	if k == kindEvictSettled {
		var c EvictSettled
		c.read(r)
		t.whole(r)
		return t.evict((*Evict)(&c), true)
	}
	var c AuditFormat
	c.read(r)
	t.whole(r)
	return t.journal.setFormat(&c, t.index, t.now)
}

func (t *Tasks) erase(c *Erase) Outcome {
	if len(c.By) > maxNameBytes || len(c.Reason) > maxErrorBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the reason or the name of who asks is too long"}
	}
	i, e := t.find(c.ID)
	if e != nil && i == 0 { // hooks are looked for, too
		own := *e
		e = &own
	}
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.ended == endErased:
		return e.outcome(OK, true)
	case !e.state.Terminal():
		return e.outcome(BadState, false)
	}
	hooks, open := t.hooksOf(e)
	if open {
		return Outcome{Code: BadState, ID: c.ID, State: e.state, Detail: "the task that undoes or verifies it has not ended"}
	}
	for _, h := range hooks { // their context repeats what it was given and what came of it
		if k, v := t.find(h); v != nil && v.ended != endErased {
			t.erasePayload(k, v, c)
		}
	}
	e = t.erasePayload(i, e, c)
	return e.outcome(OK, false)
}

// erasePayload empties one ended task, and records it.
func (t *Tasks) erasePayload(i uint32, e *entry, c *Erase) *entry {
	if i == 0 { // it had left memory
		i, e = t.keep(e)
	}
	s, err := decodeSpec(e.spec)
	if err != nil {
		panic("ledger: invariant: task " + e.id.String() + " in memory: " + err.Error())
	}
	s.Input, s.Context, s.Description, s.Rollback, s.Verify = nil, nil, "", nil, nil
	t.slab.bytes -= len(e.spec)
	e.spec, e.result, e.err, e.ended = s.Append(nil), nil, "", endErased
	t.slab.bytes += len(e.spec)
	if x := e.x; x != nil {
		x.Terms.Verify.Input, x.Terms.Rollback.Input, x.Terms.Snapshot, x.Snapshot, x.Saved.State = nil, nil, nil, nil, nil
	}
	e.updated = t.now
	t.touch(i, e)
	t.rec = Record{Verb: VerbErase, Actor: c.By, Detail: t.words(c.Reason)}
	t.record(e, e.state, e.state)
	return e
}
