package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/backup"
)

type backupCmd struct {
	apiFlags `embed:""`
	Path     string `arg:"" placeholder:"FILE|DIR" help:"A new file, or a directory for one named after cluster and time."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// Help is the operations page.
func (backupCmd) Help() string {
	return `Backs up a running cluster into one file. Each shard is as of one index, at or
above everything that was acknowledged when its turn came; the audit chains are
recomputed on the way. The nodes and this command need little memory however
large the cluster is.

  quorate backup /backups/                 every shard, from the node that leads it
  quorate restore --check FILE.qbk         read it to the end and verify all of it

A backup holds inputs, results and the audit log in the clear: keep it as safe
as the nodes' disks. Coming back from it: quorate restore --help.`
}

// Run takes a backup.
func (c *backupCmd) Run(ctx context.Context, con console) error {
	first, err := c.client()
	if err != nil {
		return err
	}
	v, err := first.Cluster(ctx)
	first.Close()
	if err != nil {
		return err
	}
	all := c.apiFlags // shards are led all over the cluster
	for _, n := range v.Nodes {
		if n.Role == "member" && n.State == "alive" && n.APIAddr != "" {
			all.API = append(all.API, n.APIAddr)
		}
	}
	cl, err := all.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	start := time.Now()
	path, m, err := backup.Write(ctx, cl, c.Path, start)
	if err != nil {
		return wrapped(err, 5, "backup_failed")
	}
	if c.JSON {
		return printJSON(con.out, map[string]any{"file": path, "manifest": m})
	}
	printManifest(con, m)
	fmt.Fprintf(con.out, "\n%s, %s in %.1f s\n", path, mebibytes(total(m)), time.Since(start).Seconds())
	return nil
}

// wrapped gives an error that is not an answer of the API a layer.
func wrapped(err error, layer int, code string) error {
	if errors.As(err, new(*api.Error)) {
		return err
	}
	return api.Errorf(500, layer, code, api.RetryNo, "%v", err)
}

func printManifest(con console, m backup.Manifest) {
	fmt.Fprintf(con.out, "cluster %s  %s  %s\n\n", m.Cluster, m.ClusterID, m.Time.Format(time.RFC3339))
	var rows [][]string
	for _, s := range m.Contents {
		rows = append(rows, []string{strconv.Itoa(int(s.Shard)), strconv.FormatUint(s.Index, 10), strconv.Itoa(s.Rows), strconv.FormatUint(s.Records, 10), short(s.LedgerHead, 20), mebibytes(s.Bytes)})
	}
	table(con.out, "SHARD INDEX ROWS RECORDS HEAD SIZE", rows)
}

func total(m backup.Manifest) (n int64) {
	for _, s := range m.Contents {
		n += s.Bytes
	}
	return n
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

type restoreCmd struct {
	Backup       string   `arg:"" optional:"" placeholder:"BACKUP" help:"A file of quorate backup."`
	FromSurvivor string   `placeholder:"DIR" help:"Instead of a backup: the data directory of a node whose cluster lost its majority."`
	AcceptLost   bool     `name:"accept-lost-shards" help:"With --from-survivor: go on without the shards that the survivor has no replica of. They begin empty."`
	DataDir      string   `placeholder:"DIR" help:"Where the new nodes' data directories are made: DIR itself for one member, DIR/ID for more."`
	Member       []string `placeholder:"ID=HOST:PORT" help:"A node of the new cluster and its peer address; once for each, default n1=127.0.0.1:7701."`
	Cluster      string   `placeholder:"NAME" help:"The new cluster's name; default the old one's."`
	Check        bool     `help:"Only read the backup and verify all of it."`
	JSON         bool     `name:"json" help:"Print JSON."`
}

// Help is the operations page.
func (restoreCmd) Help() string {
	return `Makes a new cluster out of a backup, or out of the one node that is left.

From a backup:
  quorate restore FILE.qbk --data-dir OUT --member n1=10.0.0.1:7701 \
          --member n2=10.0.0.2:7701 --member n3=10.0.0.3:7701
  Copy OUT/n1, OUT/n2 and OUT/n3 to their hosts, then start each with
  quorate start --data-dir … --node-id … and the addresses you gave, with
  --join naming the others' gossip addresses. Run restore once for all members:
  each run draws new identities, and directories of different runs do not mix.

Lost quorum (a majority of the disks is gone for good):
  1. Be sure that the others do not come back. If they do, there are two
     clusters, and both think the tasks are theirs.
  2. Stop the survivor. If several are left, take the one with the greatest
     term and last index: restore prints them, and changes nothing in its DIR.
  3. quorate restore --from-survivor DIR --data-dir OUT --member …
  4. Start the new members as above; keep DIR as evidence.
  Everything the survivor's log has is kept, also entries it did not know to be
  committed. What the lost nodes acknowledged without it is lost: entries behind
  the last index that is printed.
  With more than three nodes no node has every shard. Restore names those that
  the survivor lacks and changes nothing; with --accept-lost-shards it goes on
  with what there is: the shards it names begin empty, what was in them is lost,
  and the first record of each says so.

Both ways: cluster and raft IDs are new and the old ones never return; terms and
epochs begin above all old ones, so that an agent of the old cluster is refused
(stale_lease); exactly_once work that was being performed becomes unknown and
waits for verify or for a person; idempotency keys stay good; the audit chains go
on behind a record cluster_restored. At_least_once work is run again.`
}

// Run restores.
func (c *restoreCmd) Run(ctx context.Context, con console) error {
	if c.Check {
		return c.check(con)
	}
	if c.DataDir == "" || (c.Backup == "") == (c.FromSurvivor == "") {
		return usageError{fmt.Errorf("restore: want BACKUP or --from-survivor DIR, and --data-dir")}
	}
	cfg := node.RestoreConfig{Backup: c.Backup, Survivor: c.FromSurvivor, AcceptLost: c.AcceptLost, DataDir: c.DataDir, Cluster: c.Cluster, Now: time.Now()}
	if len(c.Member) == 0 {
		c.Member = []string{"n1=127.0.0.1:7701"}
	}
	for _, m := range c.Member {
		id, addr, ok := strings.Cut(m, "=")
		if !ok {
			return usageError{fmt.Errorf("--member %s: want ID=HOST:PORT", m)}
		}
		cfg.Members = append(cfg.Members, node.RestoreMember{NodeID: id, PeerAddr: addr})
	}
	r, err := node.Restore(ctx, cfg)
	if err != nil {
		return api.Errorf(500, 5, "restore_failed", api.RetryNo, "%v", err).WithHint("nothing was restored; `quorate restore --help` has the steps")
	}
	if c.JSON {
		return printJSON(con.out, r)
	}
	printRestored(con, r)
	return nil
}

func (c *restoreCmd) check(con console) error {
	if c.Backup == "" {
		return usageError{fmt.Errorf("restore --check: want a backup's file")}
	}
	m, err := backup.Check(c.Backup)
	if err != nil {
		return api.Errorf(500, 5, "backup_damaged", api.RetryNo, "%v", err)
	}
	if c.JSON {
		return printJSON(con.out, m)
	}
	printManifest(con, m)
	fmt.Fprintf(con.out, "\n%s is whole, %s\n", filepath.Base(c.Backup), mebibytes(total(m)))
	return nil
}

func printRestored(con console, r node.Restored) {
	w := con.out
	fmt.Fprintf(w, "new cluster %s  %s\nmade of     %s\n\n", r.Cluster, r.ClusterID, r.OldClusterID)
	var rows [][]string
	for _, s := range r.Shards {
		row := []string{strconv.Itoa(int(s.Shard)), strconv.FormatUint(s.Index, 10), strconv.FormatUint(s.Records, 10), short(s.LedgerHead, 20)}
		if r.Survivor != nil {
			row = append(row, strconv.FormatUint(s.Commit, 10), strconv.FormatUint(s.Uncertain, 10))
		}
		rows = append(rows, row)
	}
	head := "SHARD LAST RECORDS HEAD"
	if r.Survivor != nil {
		head += " COMMITTED UNCERTAIN"
	}
	table(w, head, rows)
	if r.Survivor != nil && len(r.Survivor.Shards) > 0 {
		fmt.Fprintf(w, "\nlost: %s had no replica of shard %s; what was in them is gone\n", r.Survivor.NodeID, strings.Trim(fmt.Sprint(r.Survivor.Shards), "[]"))
	}
	rows = nil
	for _, n := range r.Nodes {
		rows = append(rows, []string{n.NodeID, n.RaftID, n.DataDir})
	}
	fmt.Fprintln(w)
	table(w, "NODE RAFT DIRECTORY", rows)
	if s := r.Survivor; s != nil {
		fmt.Fprintf(w, "\nwhat may be lost: anything that %s acknowledged behind LAST without %s; nobody left can tell how much.\n", strings.Join(s.Lost, " and "), s.NodeID)
		fmt.Fprintf(w, "what was kept: UNCERTAIN entries that %s had without knowing that they were committed; nobody may have been told of them.\n", s.NodeID)
	}
	fmt.Fprintln(w, "\nstart each node with `quorate start --data-dir DIRECTORY --node-id NODE …`; see `quorate restore --help`")
}
