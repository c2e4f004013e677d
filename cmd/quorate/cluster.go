package main

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

type clusterView struct {
	apiFlags `embed:""`
	JSON     bool `name:"json" help:"Print JSON."`
}

func (c *clusterView) read(ctx context.Context) (api.Cluster, *client.Client, error) {
	cl, err := c.client()
	if err != nil {
		return api.Cluster{}, nil, err
	}
	v, err := cl.Cluster(ctx)
	return v, cl, err
}

func printNodes(con console, nodes []api.NodeStatus) {
	var rows [][]string
	for _, n := range nodes {
		state := paint(con.out, green, n.State)
		if n.State != "alive" {
			state = paint(con.out, red, n.State)
		}
		rows = append(rows, []string{n.NodeID, state, dash(n.Role), strconv.Itoa(n.Leads), strconv.Itoa(n.Agents), dash(n.APIAddr), dash(n.PeerAddr), dash(n.GossipAddr), n.Version})
	}
	table(con.out, "NODE STATE ROLE LEADS AGENTS API PEER GOSSIP VERSION", rows)
}

type statusCmd struct {
	clusterView `embed:""`
}

// Run shows the cluster.
func (c *statusCmd) Run(ctx context.Context, con console) error {
	v, cl, err := c.read(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if c.JSON {
		return printJSON(con.out, v)
	}
	w := con.out
	fmt.Fprintf(w, "cluster %s  %s  %s (answered by %s)\n", v.Cluster, v.ClusterID, v.Phase, v.NodeID)
	if v.Waiting != "" {
		fmt.Fprintf(w, "waiting: %s\n", v.Waiting)
	}
	fmt.Fprintln(w)
	printNodes(con, v.Nodes)
	if len(v.Shards) > 0 {
		var rows [][]string
		for _, s := range v.Shards {
			leader := dash(s.Leader)
			if s.Leader == "" {
				leader = paint(w, red, "none")
			}
			rows = append(rows, []string{strconv.Itoa(int(s.Shard)), s.Kind, leader, strconv.FormatUint(s.Term, 10), strconv.FormatUint(s.Applied, 10),
				strconv.FormatUint(s.Checkpoint, 10), strconv.FormatUint(s.LedgerSize, 10), voters(s), dash(strings.Join(s.Lagging, ","))})
		}
		fmt.Fprintln(w)
		table(w, "SHARD KIND LEADER TERM APPLIED CHECKPOINT RECORDS VOTERS LAGGING", rows)
	}
	if len(v.Queue) > 0 {
		var rows [][]string
		for _, q := range v.Queue {
			rows = append(rows, []string{q.Capability, strconv.Itoa(q.Queued), strconv.Itoa(q.Leased), strconv.Itoa(q.Delayed), fmt.Sprintf("%.1fs", q.OldestSeconds), strconv.Itoa(q.Workers)})
		}
		fmt.Fprintln(w)
		table(w, "CAPABILITY QUEUED LEASED DELAYED OLDEST WORKERS", rows)
	}
	printDisks(con, v.Nodes)
	printSteals(con, v.Steals)
	fmt.Fprintf(w, "\ntasks   %s\nagents  %s\n", counts(v.Tasks), counts(v.Agents))
	return nil
}

// printDisks shows what the parts of each node's data take.
func printDisks(con console, nodes []api.NodeStatus) {
	var rows [][]string
	for _, n := range nodes {
		if d := n.Disk; d != nil {
			p, free := &d.Parts, "-"
			if d.FreeBytes >= 0 {
				free = mebibytes(d.FreeBytes)
			}
			rows = append(rows, []string{n.NodeID, mebibytes(p.Log), mebibytes(p.State), mebibytes(p.Journal), mebibytes(p.Hashes + p.Index),
				mebibytes(p.Archive), mebibytes(p.Total), free, mebibytes(d.ReserveBytes)})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(con.out)
		table(con.out, "DISK-OF LOG STATE JOURNAL HASHES+INDEX ARCHIVE TOTAL FREE RESERVE", rows)
	}
}

// printSteals tells between which nodes tasks were stolen, and the agents with
// most of it.
func printSteals(con console, s api.Steals) {
	if len(s.Nodes) == 0 {
		return
	}
	var rows [][]string
	for _, p := range s.Nodes {
		rows = append(rows, []string{p.From, p.To, strconv.FormatUint(p.Tasks, 10)})
	}
	fmt.Fprintln(con.out)
	table(con.out, "STOLEN-FROM BY TASKS", rows)
	rows = nil
	for _, a := range s.Agents {
		rows = append(rows, []string{a.AgentID, strconv.FormatUint(a.Stole, 10), strconv.FormatUint(a.StolenFrom, 10)})
	}
	fmt.Fprintln(con.out)
	table(con.out, "AGENT STOLE LOST", rows)
}

// voters lists where a shard is, learners with a plus; an arrow where it should
// be instead.
func voters(s api.ShardStatus) string {
	text := strings.Join(s.Voters, ",")
	for _, l := range s.Learners {
		text += ",+" + l
	}
	if s.Moving {
		text += " -> " + strings.Join(s.Placed, ",")
	}
	return dash(text)
}

func counts(m map[string]int) string {
	var parts []string
	for k, n := range m {
		parts = append(parts, fmt.Sprintf("%d %s", n, k))
	}
	sort.Strings(parts)
	return dash(strings.Join(parts, ", "))
}

type doctorCmd struct {
	clusterView `embed:""`
}

// Run shows the health report; an unhealthy cluster is exit 1.
func (c *doctorCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	d, err := cl.Doctor(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := printJSON(con.out, d); err != nil {
			return err
		}
	} else {
		colours := map[string]int{"ok": green, "warn": yellow, "fail": red, "off": grey}
		for _, x := range d.Checks {
			fmt.Fprintf(con.out, "L%d %-13s %s  %-13s %s\n", x.Layer, api.LayerName(x.Layer), paint(con.out, colours[x.Status], fmt.Sprintf("%-4s", x.Status)), x.Name, x.Detail)
			if x.Hint != "" {
				fmt.Fprintf(con.out, "   %-13s       → %s\n", "", x.Hint)
			}
		}
	}
	if !d.Healthy {
		return api.Errorf(503, 5, "unhealthy", api.RetryLater, "node %s reports a broken layer", d.NodeID)
	}
	return nil
}
