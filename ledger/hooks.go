package ledger

// broken says that an attempt may have left something to be undone, though
// the task did not complete.
func (e *entry) broken() bool {
	return e.epoch > 0 && (e.state == StateFailed || e.state == StateTimedOut || e.state == StateCancelled)
}

// hooksOf lists the verify and rollback tasks made for a task, as far as they
// are still there; open if one of them has not ended.
func (t *Tasks) hooksOf(e *entry) (hooks []TaskID, open bool) {
	if e.x == nil || e.x.Role != RoleNone {
		return nil, false
	}
	for _, role := range []Role{RoleVerify, RoleRollback} {
		id := e.x.hook(role)
		for round := uint32(0); !id.IsZero() && round < e.x.Rounds; round++ {
			_, h := t.find(id)
			if h == nil || h.x == nil {
				break
			}
			hooks, open = append(hooks, id), open || !h.state.Terminal()
			id = h.x.hook(role)
		}
	}
	return hooks, open
}

// hook is the newest hook of a task, or of a hook the one before it.
func (x *Txn) hook(role Role) TaskID {
	if role == RoleVerify {
		return x.Verify
	}
	return x.Rollback
}

// awaited says that a task's end still matters: a hook's only while the task
// it is about waits for it.
func (t *Tasks) awaited(e *entry) bool {
	if e.x == nil || e.x.Role != RoleVerify && e.x.Role != RoleRollback {
		return true
	}
	_, of := t.find(e.x.Of)
	if of == nil || of.x == nil || of.x.hook(e.x.Role) != e.id {
		return false
	}
	if e.x.Role == RoleVerify {
		return of.state == StateUnknown
	}
	return of.state == StateRollingBack || of.x.Stuck
}

// dropUndo takes back a rollback task that was tried again, before someone
// settles what it is about; not if it is running.
func (t *Tasks) dropUndo(e *entry) bool {
	i, u := t.find(e.x.Rollback)
	switch {
	case u == nil || u.state.Terminal():
		return true
	case u.state == StateRunning:
		return false
	}
	u.close()
	u.notBefore, u.err = 0, "someone settled it"
	t.rec = Record{Verb: VerbCancel, Detail: u.err}
	t.move(i, u, StateCancelled, false)
	return true
}
