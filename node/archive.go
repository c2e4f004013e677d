package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
	"github.com/quorate/quorate/raftstore"
)

// Every node archives the journals that it has, and then lets go of what it
// archived: its own archive is there before its own journal gets shorter.
// Journals go file by file, from the beginning, so a record stays until all
// before it in its shard, of whatever fleet, may go.

const (
	archiveInterval = 30 * time.Second // between looks at what is over
	archiveBytes    = 256 << 20        // of a journal that one archive has, about
)

// archiver is what a node knows about its archives.
type archiver struct {
	dir string
	one [raftstore.MaxShards]sync.Mutex // held while the shard is archived
	mu  struct {
		sync.Mutex
		until  map[uint32]recordsWait
		failed map[uint32]error // of the last look
	}
}

// recordsWait says that nothing is over before then, under a policy.
type recordsWait struct {
	policy string
	millis int64
}

// archiveStep, set by tests only, may fail archiving between two steps.
var archiveStep func(string) error

func stepped(step string) error {
	if archiveStep == nil {
		return nil
	}
	return archiveStep(step)
}

// recordPolicy is how long audit records live, as far as this node's control
// replica knows.
type recordPolicy struct {
	fleets map[string]ledger.RecordRetention
	name   string // of the whole
}

func (n *core) recordPolicy() recordPolicy {
	p := recordPolicy{fleets: map[string]ledger.RecordRetention{}}
	n.control.view(func(c *ledger.Control) {
		for _, x := range c.RecordRetentions() {
			p.fleets[x.Fleet] = x
		}
	})
	for _, fleet := range slices.Sorted(maps.Keys(p.fleets)) {
		x := p.fleets[fleet]
		p.name += fmt.Sprintf("%q %d %v,", fleet, x.Millis, x.Drop)
	}
	return p
}

// over says when a record may go, false if never, and whether without an
// archive.
func (p *recordPolicy) over(r *ledger.Record) (millis int64, ok, drop bool) {
	x, known := p.fleets[r.Fleet]
	if !known || r.Fleet == "" {
		x = p.fleets[ledger.EveryFleet]
	}
	return r.TimeMillis + x.Millis, x.Millis > 0, x.Drop
}

// archiveLoop archives and lets go of records whose time is over.
func (n *core) archiveLoop() {
	t := n.ticker(archiveInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		for _, shard := range n.store.Shards() {
			for more := true; more && n.ctx.Err() == nil; {
				var err error
				_, more, err = n.archiveShard(n.ctx, shard, false)
				if n.archives.ended(shard, err); err != nil {
					more = false
					if n.ctx.Err() == nil {
						n.cfg.Logger.Warn("audit records whose time is over stay: they are not archived", "layer", 7, "shard", shard, "error", err)
					}
				}
			}
		}
	}
}

// Archive archives and lets go of what is over now, in all shards that have a
// replica here.
func (n *core) Archive(ctx context.Context) (api.ArchivePage, error) {
	out := api.ArchivePage{NodeID: n.id.NodeID, Directory: n.archives.dir, Runs: []api.ArchiveRun{}}
	if n.trails.off {
		return out, n.trails.errNoTrail(0)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, shard := range n.store.Shards() {
		wg.Go(func() { // each waits for a state checkpoint
			for more := true; more; {
				var run *api.ArchiveRun
				var err error
				run, more, err = n.archiveShard(ctx, shard, true)
				mu.Lock()
				if errs = append(errs, err); run != nil {
					out.Runs = append(out.Runs, *run)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out.Runs, func(a, b api.ArchiveRun) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.First, b.First))
	})
	if err := errors.Join(errs...); err != nil {
		return out, asAPIError(err)
	}
	var err error
	out.Archived, err = n.archivedOf(ctx, -1)
	return out, err
}

// Archived says what the journals lack.
func (n *core) Archived(ctx context.Context) (api.ArchivePage, error) {
	list, err := n.archivedOf(ctx, -1)
	return api.ArchivePage{NodeID: n.id.NodeID, Directory: n.archives.dir, Runs: []api.ArchiveRun{}, Archived: list}, err
}

// cut is how much of a journal may go: up to where one of its files begins.
type cut struct {
	to   floor
	drop bool
}

// archiveShard archives what is over in one shard, or as much as goes into one
// file, and lets go of it. What was archived before a crash is not written again.
func (n *core) archiveShard(ctx context.Context, shard uint32, asked bool) (run *api.ArchiveRun, more bool, err error) {
	a := &n.archives
	a.one[shard].Lock()
	defer a.one[shard].Unlock()
	policy, now := n.recordPolicy(), n.nowMillis()
	if n.trails.off || n.store.Journal(shard) == nil || policy.name == "" || !asked && a.waits(shard, policy.name, now) {
		return nil, false, nil
	}
	from, err := n.floorHere(shard)
	if err != nil {
		return nil, false, err
	}
	written, err := n.writtenFrom(shard, from.Records+1)
	if err != nil {
		return nil, false, err
	}
	c, err := n.findCut(ctx, shard, from, written, &policy, now)
	if err != nil || c == nil {
		return nil, false, err
	}
	l, err := n.trail(shard)
	if err != nil {
		return nil, false, err
	}
	own, err := l.HeadAt(c.to.Records)
	if err == nil && own.Root != c.to.tree.Root() {
		err = errCorrupt(&api.BadRecord{Shard: shard, Seq: c.to.Records, Reason: "the records up to it do not give the root that was made of them"})
	}
	if err == nil {
		err = l.Save() // hashes of what goes can't be made again
	}
	if err != nil {
		return nil, false, err
	}
	run = &api.ArchiveRun{Shard: shard, First: from.Records + 1, Last: c.to.Records, Dropped: c.drop}
	if !c.drop {
		if run.File, err = n.writeArchive(ctx, shard, from, c.to, l); err != nil {
			return nil, false, err
		}
	}
	if err := stepped("archived"); err != nil {
		return nil, false, err
	}
	c.to.Archive, c.to.Node = run.File, n.id.NodeID
	if err := n.store.TrimJournal(shard, c.to.offset, c.to.Note()); err != nil {
		return nil, false, errInternal(err)
	}
	if err := n.trimmed(ctx, shard, c.to.offset); err != nil {
		return nil, false, err
	}
	n.diskUse.changed()
	n.cfg.Logger.Info("audit records left the journal", "layer", 7, "shard", shard, "first", run.First, "last", run.Last, "archive", run.File)
	return run, true, nil
}

// trimmed waits for the state checkpoint that says so.
func (n *core) trimmed(ctx context.Context, shard uint32, offset int64) error {
	for {
		if start, _ := n.store.JournalFloor(shard); start >= offset {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return n.ctx.Err()
		case <-time.After(deskInterval):
		}
	}
}

// ended keeps how archiving a shard ended, for the doctor.
func (a *archiver) ended(shard uint32, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if delete(a.mu.failed, shard); err != nil {
		a.mu.failed[shard] = err
	}
}

// checkArchive: do records whose time is over leave the journals?
func (n *core) checkArchive(add addCheck) {
	n.archives.mu.Lock()
	defer n.archives.mu.Unlock()
	for _, shard := range slices.Sorted(maps.Keys(n.archives.mu.failed)) {
		add(7, "archive", "warn", "the records stay in the journal meanwhile; look at the archive directory and its disk: quorate ledger archive tries again",
			"shard %d: records whose time is over are not archived: %v", shard, n.archives.mu.failed[shard])
		return
	}
	policy := n.recordPolicy()
	if policy.name == "" {
		add(7, "archive", "ok", "", "audit records live for ever (quorate ledger retention --records sets how long)")
		return
	}
	add(7, "archive", "ok", "", "audit records whose time is over are archived in %s", n.archives.dir)
}

func (a *archiver) waits(shard uint32, policy string, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.mu.until[shard]
	return ok && w.policy == policy && now < w.millis
}

// findCut walks what is over; nil: nothing that may go. A journal's last file
// ends where its first record is over, so that it may go, too, when all are. What
// an archive has that was written before a crash goes first.
func (n *core) findCut(ctx context.Context, shard uint32, from floor, written uint64, policy *recordPolicy, now int64) (*cut, error) {
	starts := n.store.JournalFiles(shard)
	last := starts[len(starts)-1]
	at, wait := cut{to: from, drop: true}, int64(ledger.MaxRetentionMillis)+now
	at.to.tree = from.tree.Clone()
	var best *cut
	i, _ := slices.BinarySearch(starts, from.offset+1)
	bad, err := n.walkShard(ctx, shard, from.place, func(r *ledger.Record, body []byte, next place) bool {
		millis, ok, drop := policy.over(r)
		if !ok || millis > now {
			if ok {
				wait = millis
			}
			return false
		}
		at.to.place, at.drop = next, at.drop && drop
		at.to.tree.Append(proof.Leaf(body))
		for i < len(starts) && starts[i] < next.offset { // not the beginning of a record
			i++
		}
		if i < len(starts) && starts[i] == next.offset {
			best = n.cutAt(&at)
		}
		return best == nil || best.to.Records != written && next.offset-from.offset < archiveBytes
	})
	if err != nil || bad != nil {
		if bad != nil {
			err = errCorrupt(bad)
		}
		return nil, err
	}
	if (best == nil || best.to.Records != written) && at.to.offset > last { // some of the last file: it ends here
		if err := n.store.CutJournal(shard); err != nil {
			return nil, errInternal(err)
		}
		if again := n.store.JournalFiles(shard); again[len(again)-1] == at.to.offset {
			best = n.cutAt(&at)
		}
	}
	if best == nil {
		n.archives.mu.Lock()
		n.archives.mu.until[shard] = recordsWait{policy.name, wait}
		n.archives.mu.Unlock()
	}
	return best, nil
}

// writtenFrom is the last record of an archive that begins with one; 0: there
// is none.
func (n *core) writtenFrom(shard uint32, first uint64) (last uint64, err error) {
	err = n.trails.fs.Walk(n.archives.dir, func(path string, _ int64) {
		var s uint32
		var f, l uint64
		name := filepath.Base(path)
		if k, _ := fmt.Sscanf(name, "%d-%d-%d", &s, &f, &l); k == 3 && s == shard && f == first && trail.ArchiveName(s, f, l) == name {
			last = max(last, l)
		}
	})
	if err != nil {
		err = archiveError(err)
	}
	return last, err
}

func (n *core) cutAt(at *cut) *cut {
	c := &cut{to: floor{place: at.to.place, tree: at.to.tree.Clone()}, drop: at.drop}
	c.to.Floor = trail.NewFloor(c.to.head, c.to.tree)
	return c
}

// writeArchive writes the records between two floors to a file with a
// checkpoint that most nodes signed, unless it is there and verifies.
func (n *core) writeArchive(ctx context.Context, shard uint32, from, to floor, l *trail.Log) (string, error) {
	name := trail.ArchiveName(shard, from.Records+1, to.Records)
	path := filepath.Join(n.archives.dir, name)
	if there, err := n.trails.fs.Exists(path); err != nil {
		return "", errInternal(err)
	} else if there {
		rep, err := trail.VerifyArchive(n.trails.fs, path)
		if err == nil && (rep.Cluster != hex.EncodeToString(n.id.ClusterID[:]) || rep.Records != to.Records-from.Records) {
			err = fmt.Errorf("%s: %w: it is of other records", path, trail.ErrArchive)
		}
		return name, archiveError(err)
	}
	signed, c, err := n.checkpointParsed(ctx)
	if err != nil {
		return "", err
	}
	head, _ := c.Head(shard)
	if head.Size < to.Records {
		return "", api.Errorf(503, 7, "not_there_yet", api.RetryLater, "shard %d: the checkpoint has %d records, %d are to be archived", shard, head.Size, to.Records)
	}
	var links tlog.TreeProof
	if to.Records < head.Size {
		if links, err = tlog.ProveTree(int64(head.Size), int64(to.Records), l); err != nil {
			return "", errInternal(err)
		}
	}
	if err := stepped("signed"); err != nil {
		return "", err
	}
	keys, err := n.AuditKeys(ctx)
	if err != nil {
		return "", err
	}
	x := trail.Archive{FS: n.trails.fs, Path: path, Signed: signed, Keys: keys,
		Header: proof.NewArchiveHeader(&c, &from.tree, to.Records, head, links),
		Each: func(fn func([]byte, *ledger.Record) error) error {
			return n.eachRecord(ctx, shard, from, to.Records, fn)
		}}
	return name, archiveError(x.Write())
}

func (n *core) eachRecord(ctx context.Context, shard uint32, from floor, last uint64, fn func([]byte, *ledger.Record) error) error {
	var fnErr error
	seq := from.Records
	bad, err := n.walkShard(ctx, shard, from.place, func(r *ledger.Record, body []byte, _ place) bool {
		fnErr, seq = fn(body, r), r.Seq
		return fnErr == nil && seq < last
	})
	switch {
	case errors.Join(fnErr, err) != nil:
		return errors.Join(fnErr, err)
	case bad != nil:
		return errCorrupt(bad)
	case seq != last:
		return fmt.Errorf("the journal ends at record %d of %d", seq, last)
	}
	return nil
}

func archiveError(err error) error {
	if err == nil {
		return nil
	}
	return api.Errorf(500, 7, "not_archived", api.RetryLater, "%v", err).
		WithHint("the records stay in the journal until they are archived; look at the archive directory and its disk (--archive-dir)")
}
