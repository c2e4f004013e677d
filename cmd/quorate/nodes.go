package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

type nodeCmd struct {
	List    nodeListCmd    `cmd:"" help:"List the nodes."`
	Add     nodeAddCmd     `cmd:"" help:"Admit a new node; start it with --join afterwards."`
	Promote nodePromoteCmd `cmd:"" help:"Make a joining node a full member now, or take back a drain, or a removal that is not through."`
	Drain   nodeDrainCmd   `cmd:"" help:"Move a node's replicas and leaders to others."`
	Remove  nodeRemoveCmd  `cmd:"" help:"Have a node leave for good, dead or alive; several dead ones may leave together."`
}

type nodeListCmd struct {
	clusterView `embed:""`
}

// Run lists nodes.
func (c *nodeListCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	v, err := cl.Nodes(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, v)
	}
	printMembers(con, v.Nodes)
	return nil
}

func printMembers(con console, nodes []api.ClusterNode) {
	var rows [][]string
	for _, n := range nodes {
		reach := paint(con.out, green, "yes")
		if !n.Reachable {
			reach = paint(con.out, red, "no")
		}
		if n.State == "admitted" || n.State == "removed" {
			reach = "-"
		}
		var shards []string
		for _, s := range n.Shards {
			shards = append(shards, strconv.Itoa(int(s)))
		}
		rows = append(rows, []string{n.NodeID, n.State, reach, dash(strings.Join(shards, ",")), strconv.Itoa(n.Leads), dash(n.APIAddr), dash(n.PeerAddr), dash(n.RaftID)})
	}
	table(con.out, "NODE STATE REACHABLE SHARDS SHOULD-LEAD API PEER RAFT-ID", rows)
}

type nodeAddCmd struct {
	apiFlags `embed:""`
	NodeID   string `required:"" name:"node-id" help:"The new node's ID."`
	Peer     string `help:"The peer address it must have." placeholder:"ADDR"`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// Run admits a node.
func (c *nodeAddCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	n, err := cl.AddNode(ctx, c.NodeID, c.Peer)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, n)
	}
	fmt.Fprintf(con.out, "node %s is admitted: start it with --node-id %s --join ADDRESS (a member's gossip address)\n", c.NodeID, c.NodeID)
	return nil
}

type nodePromoteCmd struct{ nodeChange }

// Run promotes a node.
func (c *nodePromoteCmd) Run(ctx context.Context, con console) error {
	return c.change(ctx, con, "promote", func(n *api.ClusterNode) bool { return true })
}

type nodeDrainCmd struct{ nodeChange }

// Run drains a node.
func (c *nodeDrainCmd) Run(ctx context.Context, con console) error {
	return c.change(ctx, con, "drain", func(n *api.ClusterNode) bool { return n.Hosts == 0 })
}

type nodeRemoveCmd struct{ nodeChange }

// Run removes a node.
func (c *nodeRemoveCmd) Run(ctx context.Context, con console) error {
	return c.change(ctx, con, "remove", func(n *api.ClusterNode) bool { return n.State == "removed" })
}

// nodeChange is what promote, drain and remove have in common.
type nodeChange struct {
	apiFlags `embed:""`
	ID       string        `arg:"" help:"Node ID."`
	Wait     time.Duration `help:"Wait this long until it is through." placeholder:"DURATION"`
	JSON     bool          `name:"json" help:"Print JSON."`
}

func (c *nodeChange) change(ctx context.Context, con console, verb string, through func(*api.ClusterNode) bool) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	n, err := cl.ChangeNode(ctx, c.ID, verb)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(c.Wait); c.Wait > 0 && !through(&n); {
		if time.Now().After(deadline) {
			return api.Errorf(504, 5, "still_under_way", api.RetryLater, "node %s is %s, and not through after %v", c.ID, n.State, c.Wait).
				WithHint("it goes on by itself: quorate node list")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond): // the cluster gives no event for it
		}
		list, err := cl.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, x := range list.Nodes {
			if x.NodeID == c.ID {
				n = x
			}
		}
	}
	if c.JSON {
		return printJSON(con.out, n)
	}
	if n.NodeID == "" {
		fmt.Fprintf(con.out, "node %s is not admitted any more\n", c.ID)
		return nil
	}
	printMembers(con, []api.ClusterNode{n})
	return nil
}
