package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/trail"
)

// The audit levels of [Config.AuditLevel].
const (
	AuditLog  = "log"
	AuditHash = "hash"
)

// Intervals of the trail.
const (
	trailInterval      = 300 * time.Millisecond // between looks at the journals
	trailSaveInterval  = 10 * time.Second       // what a crash makes hash again
	checkpointInterval = time.Minute            // of the control leader, if there is something new
)

// trails follow the journals of the shards that have a replica here.
type trails struct {
	fs     files.FS
	dir    string
	signer *trail.Signer
	off    bool       // audit level log
	kept   sync.Mutex // held while the last checkpoint's file is replaced: there is one name for the new one
	mu     struct {
		sync.Mutex
		of      map[uint32]*trail.Log
		indexes map[uint32]*trail.Index
		bad     map[uint32]error // told once
	}
}

func openTrails(cfg *Config, nodeID string, raftID uint64, cluster [16]byte) (*trails, error) {
	t := &trails{fs: files.FS{FS: cfg.FS}, dir: filepath.Join(cfg.DataDir, "audit"), off: cfg.AuditLevel == AuditLog}
	t.mu.indexes = map[uint32]*trail.Index{}
	t.mu.of, t.mu.bad = map[uint32]*trail.Log{}, map[uint32]error{}
	if err := t.fs.MkdirAll(t.dir); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var err error
	t.signer, err = trail.OpenSigner(t.fs, t.dir, nodeID, raftID, cluster)
	return t, err
}

// errNoTrail is why there is no proof of a shard here.
func (t *trails) errNoTrail(shard uint32) error {
	if t.off {
		return api.Errorf(409, 7, "audit_not_hashed", api.RetryNo, "this node runs with audit level %q: it keeps records, and no hashes of them", AuditLog).
			WithHint("start it with --audit-level=hash; the hashes are then made from the records it has")
	}
	return api.Errorf(404, 7, "no_shard", api.RetryNo, "shard %d has no replica on this node", shard)
}

// log is a shard's trail, opened when it is first asked for; nil with an
// error when there is none.
func (t *trails) log(shard uint32, j trail.Journal) (*trail.Log, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.mu.of[shard]; l != nil {
		return l, t.mu.bad[shard]
	}
	if t.off || j == nil {
		return nil, t.errNoTrail(shard)
	}
	l, err := trail.OpenLog(t.fs, t.dir, shard, j)
	if err == nil {
		t.mu.of[shard] = l
	}
	return l, err
}

// bytes is what a shard's hashes and index take on disk.
func (t *trails) bytes(shard uint32) (hashes, index int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.mu.of[shard]; l != nil {
		hashes = l.Bytes()
	}
	if x := t.mu.indexes[shard]; x != nil {
		index, _ = x.Bytes()
	}
	return hashes, index
}

// close saves all of them.
func (t *trails) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, l := range t.mu.of {
		errs = append(errs, l.Close())
	}
	clear(t.mu.of)
	for _, x := range t.mu.indexes {
		errs = append(errs, x.Close())
	}
	clear(t.mu.indexes)
	return errors.Join(errs...)
}

// trail is a shard's tree, hashed up to now.
func (n *core) trail(shard uint32) (*trail.Log, error) {
	l, err := n.trails.log(shard, n.journal(shard))
	if err != nil {
		return nil, err
	}
	for more := true; more; {
		if more, err = l.Advance(); err != nil {
			return l, n.trailBad(shard, err)
		}
	}
	return l, nil
}

// trailBad keeps and tells what is wrong with a shard's journal.
func (n *core) trailBad(shard uint32, err error) error {
	n.trails.mu.Lock()
	defer n.trails.mu.Unlock()
	if errors.Is(err, trail.ErrAltered) && n.trails.mu.bad[shard] == nil {
		n.trails.mu.bad[shard] = err
		n.cfg.Logger.Error("the audit journal was altered: keep this node's data, the other nodes hold equal copies", "layer", 7, "shard", shard, "error", err)
	}
	return err
}

// forget lets go of a shard whose replica was put away. Hashes and index of its
// journal go with it: they are made again from another.
func (t *trails) forget(shard uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	if l := t.mu.of[shard]; l != nil {
		errs = append(errs, l.Close())
	}
	if x := t.mu.indexes[shard]; x != nil {
		errs = append(errs, x.Close())
	}
	delete(t.mu.of, shard)
	delete(t.mu.indexes, shard)
	delete(t.mu.bad, shard)
	return errors.Join(append(errs, trail.Remove(t.fs, t.dir, shard))...)
}

// trailLoop hashes what was recorded, saves what was hashed, and has the
// control leader make a checkpoint now and then.
func (n *core) trailLoop() {
	t := n.ticker(trailInterval)
	defer t.Stop()
	saved := n.cfg.Now()
	signed := saved
	for {
		select {
		case <-n.ctx.Done():
			if err := n.trails.close(); err != nil {
				n.cfg.Logger.Warn("audit hashes were not saved; they are made again", "layer", 7, "error", err)
			}
			return
		case <-t.C:
		}
		if n.trails.off {
			continue
		}
		now := n.cfg.Now()
		save := now.Sub(saved) > trailSaveInterval
		for shard := range n.shards {
			if n.store.Journal(shard) == nil {
				continue
			}
			l, err := n.trail(shard)
			if err == nil && save {
				err = l.Save()
			}
			if err == nil {
				err = n.indexNew(shard, l.Head().Size)
			}
			if err != nil && !errors.Is(err, trail.ErrAltered) && n.ctx.Err() == nil {
				n.cfg.Logger.Warn("audit records are not hashed", "layer", 7, "shard", shard, "error", err)
			}
		}
		if save {
			saved = now
		}
		if leader, _ := n.leaders.of(controlShard); leader == n.id.RaftID && now.Sub(signed) > checkpointInterval {
			signed = now
			n.background(n.checkpointNow)
		}
	}
}

// indexNew indexes the blocks of records that are whole since the last time.
func (n *core) indexNew(shard uint32, size uint64) error {
	x, err := n.trails.index(shard, n.journal(shard))
	for more := err == nil; more && n.ctx.Err() == nil; {
		more, err = x.Advance(size)
	}
	return err
}

// enterKey has this node's public key in the control shard.
func (n *core) enterKey() {
	known := false
	n.control.view(func(c *ledger.Control) {
		for _, k := range c.Keys() {
			known = known || k.Key == n.trails.signer.Key()
		}
	})
	if known {
		return
	}
	key := &ledger.NodeKey{RaftID: n.id.RaftID, Key: n.trails.signer.Key()}
	for n.ctx.Err() == nil {
		a := n.do(n.ctx, controlShard, []ledger.Command{key})[0]
		if a.err != nil {
			continue
		}
		if a.outcome.Code != ledger.OK {
			n.cfg.Logger.Error("this node's audit key was not entered", "layer", 7, "code", a.outcome.Code.String(), "detail", a.outcome.Detail)
		}
		return
	}
}
