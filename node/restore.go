package node

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/backup"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/form"
	"github.com/quorate/quorate/node/internal/trail"
	"github.com/quorate/quorate/raftstore"
)

// RestoreConfig says what to make a new cluster of. Either Backup or Survivor
// is given.
type RestoreConfig struct {
	Backup   string // a file of `quorate backup`
	Survivor string // the data directory of a node of a cluster that lost its majority, not running
	// AcceptLost goes on without the shards that the survivor has no replica of: they begin empty.
	AcceptLost bool

	// DataDir is where the nodes' data directories are made: DataDir itself for
	// one member, DataDir/<node ID> for more. They are absent or empty.
	DataDir string
	Members []RestoreMember // of the new cluster; at least one
	Cluster string          // its name; default the old one's
	Now     time.Time       // stamps the restore
}

// RestoreMember is a node of the new cluster.
type RestoreMember struct{ NodeID, PeerAddr string }

// Restored says what was made.
type Restored struct {
	Cluster      string            `json:"cluster"`
	ClusterID    string            `json:"cluster_id"`
	OldClusterID string            `json:"old_cluster_id"`
	Nodes        []RestoredNode    `json:"nodes"`
	Shards       []RestoredShard   `json:"shards"`
	Backup       *backup.Manifest  `json:"backup,omitempty"`
	Survivor     *RestoredSurvivor `json:"survivor,omitempty"`
}

// RestoredNode is one data directory.
type RestoredNode struct {
	NodeID  string `json:"node_id"`
	RaftID  string `json:"raft_id"`
	DataDir string `json:"data_dir"`
}

// RestoredShard is what a shard begins with.
type RestoredShard struct {
	Shard      uint32 `json:"shard"`
	Index      uint64 `json:"last_index"`
	Records    uint64 `json:"ledger_records"`
	LedgerHead string `json:"ledger_head"`
	EpochFloor uint64 `json:"epoch_floor"` // leases up to it are over
	// Of a survivor: entries it had without knowing that they were committed
	// are kept; it was at Commit for certain.
	Commit     uint64 `json:"survivor_commit_index,omitempty"`
	Uncertain  uint64 `json:"uncertain_entries,omitempty"`
	MayHaveLed bool   `json:"survivor_may_have_led,omitempty"`
	Lost       bool   `json:"lost,omitempty"` // the survivor had no replica: it begins empty
}

// RestoredSurvivor names the node that was left.
type RestoredSurvivor struct {
	NodeID string   `json:"node_id"`
	Lost   []string `json:"other_nodes"`
	Shards []uint32 `json:"lost_shards,omitempty"` // that it had no replica of
}

// Restore makes a new cluster out of a backup or a survivor: new cluster ID, new
// raft IDs, terms and epochs above all old ones. Nothing is written before the
// source was verified whole; a failure leaves no directory that would start.
func Restore(ctx context.Context, cfg RestoreConfig) (Restored, error) {
	r := restore{cfg: cfg}
	if err := r.run(ctx); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	return r.out, nil
}

type restore struct {
	cfg   RestoreConfig
	out   Restored
	ids   []form.Identity
	from  form.ID
	name  string // of the old cluster
	count uint32 // of shards
	what  string // the source, for the ledger

	survivor *raftstore.Survivor
}

func (r *restore) run(ctx context.Context) error {
	if (r.cfg.Backup == "") == (r.cfg.Survivor == "") {
		return errors.New("give a backup or a survivor's data directory, one of them")
	}
	dirs, err := r.dirs()
	if err != nil {
		return err
	}
	if r.cfg.Backup != "" {
		err = r.checkBackup()
	} else {
		var unlock func()
		if unlock, err = r.openSurvivor(); err == nil {
			defer unlock()
			defer r.survivor.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := r.found(); err != nil {
		return err
	}
	for i, dir := range dirs {
		if err := r.seed(ctx, r.ids[i], dir, i == 0); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", dir, err), r.undo(dirs))
		}
	}
	for i, dir := range dirs { // an identity makes a directory count
		if err := r.ids[i].Save(files.FS{}, dir); err != nil {
			return errors.Join(err, r.undo(dirs))
		}
		r.out.Nodes = append(r.out.Nodes, RestoredNode{r.ids[i].NodeID, fmt.Sprintf("%016x", r.ids[i].RaftID), dir})
	}
	return nil
}

// dirs checks the members and says where each one's directory is.
func (r *restore) dirs() (dirs []string, err error) {
	if len(r.cfg.Members) == 0 || len(r.cfg.Members) > MaxVoters {
		return nil, fmt.Errorf("%d members, want 1 to %d", len(r.cfg.Members), MaxVoters)
	}
	for _, m := range r.cfg.Members {
		if _, _, err := net.SplitHostPort(m.PeerAddr); err != nil || m.NodeID == "" || filepath.Base(m.NodeID) != m.NodeID {
			return nil, fmt.Errorf("member %q at %q: want a node ID that can name a directory, and a peer address host:port", m.NodeID, m.PeerAddr)
		}
		dir := r.cfg.DataDir
		if len(r.cfg.Members) > 1 {
			dir = filepath.Join(dir, m.NodeID)
		}
		if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
			return nil, fmt.Errorf("%s is not empty (it has %s): a cluster is restored into new directories only", dir, names[0].Name())
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

func (r *restore) undo(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		names, _ := os.ReadDir(dir)
		for _, n := range names {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
		}
	}
	return errors.Join(errs...)
}

func (r *restore) checkBackup() error {
	m, err := backup.Check(r.cfg.Backup)
	if err != nil {
		return err
	}
	if r.from, err = form.ParseID(m.ClusterID); err != nil {
		return err
	}
	r.name, r.count, r.out.Backup = m.Cluster, m.Shards, &m
	r.what = "backup of " + m.Time.Format(time.RFC3339)
	return nil
}

func (r *restore) openSurvivor() (unlock func(), err error) {
	id, err := form.Load(files.FS{}, r.cfg.Survivor)
	if err != nil {
		return nil, err
	}
	if id.ClusterID.IsZero() {
		return nil, fmt.Errorf("%s is of a node that was no member of a cluster", r.cfg.Survivor)
	}
	lock, err := lockDir(files.FS{}, r.cfg.Survivor)
	if err != nil {
		return nil, err
	}
	if r.survivor, err = raftstore.OpenSurvivor(raftstore.Config{Dir: r.cfg.Survivor, RaftID: id.RaftID}); err != nil {
		lock.Close()
		return nil, err
	}
	r.from, r.name, r.count = id.ClusterID, id.Cluster, id.Shards
	r.what = "survivor " + id.NodeID
	r.out.Survivor = &RestoredSurvivor{NodeID: id.NodeID}
	if err := r.missing(); err != nil {
		return nil, errors.Join(err, r.survivor.Close(), lock.Close())
	}
	for _, v := range id.Voters {
		if v.RaftID != id.RaftID {
			r.out.Survivor.Lost = append(r.out.Survivor.Lost, v.NodeID)
		}
	}
	return func() { lock.Close() }, nil
}

// missing finds the shards that the survivor has no replica of. With more nodes
// than a shard has replicas, no node has them all.
func (r *restore) missing() error {
	have := r.survivor.Shards()
	if !slices.Contains(have, controlShard) {
		return fmt.Errorf("%s has no replica of the control shard: it was no member of the cluster yet. Take another node's directory", r.cfg.Survivor)
	}
	lost := &r.out.Survivor.Shards
	for shard := range r.count {
		if !slices.Contains(have, shard) {
			*lost = append(*lost, shard)
		}
	}
	if len(*lost) == 0 || r.cfg.AcceptLost {
		return nil
	}
	names := make([]string, len(*lost))
	for i, shard := range *lost {
		names[i] = shardName(shard)
	}
	return fmt.Errorf("%s has no replica of shard %s (of %d): every task, key and audit record in them would be lost. Look whether another node's directory has them; to go on with what there is, accept the loss (--accept-lost-shards)",
		r.cfg.Survivor, strings.Join(names, ", "), r.count)
}

// found draws the new identities.
func (r *restore) found() (err error) {
	name := r.cfg.Cluster
	if name == "" {
		name = r.name
	}
	voters := make([]form.Voter, len(r.cfg.Members))
	for i, m := range r.cfg.Members {
		voters[i] = form.Voter{NodeID: m.NodeID, PeerAddr: m.PeerAddr}
	}
	if r.ids, err = form.Refound(name, r.count, voters, nil); err != nil {
		return err
	}
	r.out.Cluster, r.out.ClusterID, r.out.OldClusterID = name, r.ids[0].ClusterID.String(), r.from.String()
	return nil
}

// commands tell a shard's state machine of the new cluster.
func (r *restore) commands(info raftstore.SeedInfo) [][]byte {
	c := &ledger.ClusterRestored{ClusterID: r.ids[0].ClusterID, From: r.from, Name: r.out.Cluster, Shards: r.count,
		EpochFloor: epochFloor(info.NewTerm), Source: r.what}
	if r.out.Survivor != nil && slices.Contains(r.out.Survivor.Shards, info.Shard) {
		c.Source += ", which had no replica of this shard: what was in it is lost"
	}
	for _, v := range r.ids[0].Voters {
		c.Members = append(c.Members, ledger.Node{RaftID: v.RaftID, NodeID: v.NodeID, PeerAddr: v.PeerAddr})
	}
	return [][]byte{c.Append(nil)}
}

// epochFloor is above every epoch of a term before the new cluster's first.
func epochFloor(term uint64) uint64 { return (term+1)<<ledger.EpochTermShift - 1 }

// seed fills one directory.
func (r *restore) seed(ctx context.Context, id form.Identity, dir string, report bool) error {
	voters := make([]uint64, len(id.Voters))
	for i, v := range id.Voters {
		voters[i] = v.RaftID
	}
	s, err := raftstore.NewSeed(raftstore.SeedConfig{Dir: dir, RaftID: id.RaftID, Voters: slices.Clone(voters), TimeMillis: r.cfg.Now.UnixMilli()})
	if err != nil {
		return err
	}
	defer s.Abort()
	if r.survivor != nil {
		err = r.fromSurvivor(ctx, s, report)
	} else {
		err = r.fromBackup(s, report)
	}
	if err != nil {
		return err
	}
	return s.Finish()
}

func (r *restore) fromBackup(s *raftstore.Seed, report bool) error {
	f, err := backup.Open(r.cfg.Backup)
	if err != nil {
		return err
	}
	defer f.Close()
	for range r.count {
		err := f.Shard(func(shard uint32, stream *bufio.Reader, audit raftstore.JournalSight) (raftstore.SeedInfo, error) {
			info, err := s.Add(raftstore.SeedShard{Stream: stream, Commands: r.commands, Journal: audit})
			if err == nil && report {
				x := r.out.Backup.Contents[shard]
				r.out.Shards = append(r.out.Shards, RestoredShard{Shard: shard, Index: info.Last, Records: x.Records, LedgerHead: x.LedgerHead, EpochFloor: epochFloor(info.NewTerm)})
			}
			return info, err
		})
		if err != nil {
			return err
		}
	}
	_, err = f.Finish()
	return err
}

func (r *restore) fromSurvivor(ctx context.Context, s *raftstore.Seed, report bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for shard := range r.count {
		if slices.Contains(r.out.Survivor.Shards, shard) {
			if err := r.lostShard(s, shard, report); err != nil {
				return err
			}
			continue
		}
		st, err := r.survivor.Shard(shard)
		if err != nil {
			return err
		}
		sh, err := r.survivor.Seed(ctx, shard, r.commands)
		if err != nil {
			return err
		}
		head := ledger.NewChain(shard)
		sh.Journal.Floor = func(note []byte) (err error) {
			_, head, _, err = trail.ReadFloor(shard, note)
			return err
		}
		sh.Journal.Record = func(record []byte) (err error) {
			head, _, _, err = ledger.VerifyChain(shard, head, record)
			return err
		}
		info, err := s.Add(sh)
		if err != nil {
			return err
		}
		if report {
			r.out.Shards = append(r.out.Shards, RestoredShard{Shard: shard, Index: info.Last, Records: head.Seq, LedgerHead: hex.EncodeToString(head.Hash[:]),
				EpochFloor: epochFloor(info.NewTerm), Commit: st.Commit, Uncertain: st.Last - st.Commit, MayHaveLed: st.LastLed})
		}
	}
	return nil
}

// lostShard begins a shard anew; its ledger says so.
func (r *restore) lostShard(s *raftstore.Seed, shard uint32, report bool) error {
	sh, err := r.survivor.Lost(r.commands)
	if err != nil {
		return err
	}
	info, err := s.Add(sh)
	if err == nil && report {
		head := ledger.NewChain(shard)
		r.out.Shards = append(r.out.Shards, RestoredShard{Shard: shard, Index: info.Last, LedgerHead: hex.EncodeToString(head.Hash[:]),
			EpochFloor: epochFloor(info.NewTerm), Lost: true})
	}
	return err
}
