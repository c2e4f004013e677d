package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/quorate/quorate/node/api"
)

type ledgerCmd struct {
	Log        ledgerLogCmd        `cmd:"" help:"Show audit records."`
	Verify     ledgerVerifyCmd     `cmd:"" help:"Verify an export or a proof offline; without a file, have every node recompute its trees, and compare them."`
	Export     ledgerExportCmd     `cmd:"" help:"Stream records as JSON Lines, with the bytes their hashes cover."`
	Prove      ledgerProveCmd      `cmd:"" help:"Print one record with its proof."`
	Checkpoint ledgerCheckpointCmd `cmd:"" help:"Have the cluster sign how far its audit log reaches."`
	Erase      ledgerEraseCmd      `cmd:"" help:"Take the payload out of an ended task for ever; the digests in its records stay."`
	Retention  retentionCmd        `cmd:"" help:"Print, or set, how long ended tasks and their idempotency keys live, and audit records."`
	Archive    ledgerArchiveCmd    `cmd:"" help:"Have a node archive the audit records whose time is over (quorate ledger retention --records), and show what left the journals."`
	Keys       ledgerKeysCmd       `cmd:"" help:"Print the keys that checkpoints are signed with."`
}

type recordFilter struct {
	apiFlags   `embed:""`
	Agent      string `help:"Only of this agent."`
	Task       string `help:"Only of this task."`
	Verb       string `help:"Only this verb."`
	Fleet      string `help:"Only this fleet."`
	From       string `help:"RFC 3339 time."`
	To         string `help:"RFC 3339 time, exclusive."`
	Guarantee  string `help:"Only this guarantee level."`
	Regulation string `help:"Only with this regulation reference."`
	Session    string `help:"Only of this session."`
	Can        string `placeholder:"ACTION:TARGET" help:"Only about this capability."`
	Shard      int    `default:"-1" help:"Only this shard."`
}

func (c *recordFilter) filter() (api.AuditFilter, error) {
	f := api.AuditFilter{AgentID: c.Agent, TaskID: c.Task, Verb: c.Verb, FleetID: c.Fleet, GuaranteeLevel: c.Guarantee, Shard: c.Shard,
		RegulationRef: c.Regulation, SessionID: c.Session}
	if c.Can != "" {
		var err error
		if f.Action, f.Target, err = api.SplitCapability(c.Can); err != nil {
			return f, usageError{err}
		}
	}
	for _, t := range []struct {
		in  string
		out *time.Time
	}{{c.From, &f.From}, {c.To, &f.To}} {
		if t.in != "" {
			var err error
			if *t.out, err = time.Parse(time.RFC3339, t.in); err != nil {
				return f, usageError{err}
			}
		}
	}
	return f, nil
}

type ledgerLogCmd struct {
	recordFilter `embed:""`
	Limit        int    `default:"100" help:"1 to 1000."`
	Cursor       string `help:"Go on from the page before."`
	Stale        bool   `help:"What the answering node has, at once and also without a quorum."`
	JSON         bool   `name:"json" help:"Print JSON."`
}

// Run shows records.
func (c *ledgerLogCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	f, err := c.filter()
	if err != nil {
		return err
	}
	f.Limit, f.Cursor = c.Limit, c.Cursor
	if c.Stale {
		ctx = api.WithStale(ctx)
	}
	p, err := cl.Audit(ctx, f)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, r := range p.Records {
		change := r.To
		if r.From != "" && r.From != r.To {
			change = r.From + "→" + r.To
		}
		rows = append(rows, []string{fmt.Sprintf("%d/%d", r.Shard, r.Seq), r.Time.Format("2006-01-02T15:04:05.000Z"), r.Verb, dash(r.TaskID), dash(change),
			dash(cmp.Or(r.AgentID, r.Actor)), strconv.FormatUint(r.Epoch, 10), dash(r.Code), short(r.Detail, 50)})
	}
	table(con.out, "RECORD TIME VERB TASK CHANGE WHO EPOCH CODE DETAIL", rows)
	tellArchived(con, p.Archived)
	if p.NextCursor != "" {
		fmt.Fprintf(con.err, "more: --cursor=%s\n", p.NextCursor)
	}
	return nil
}

type ledgerExportCmd struct {
	recordFilter `embed:""`
	Out          string `short:"o" placeholder:"FILE" help:"Write everything here, with FILE.checkpoint and FILE.keys, to be verified offline."`
}

// Run exports records.
func (c *ledgerExportCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	f, err := c.filter()
	if err != nil {
		return err
	}
	if c.Out != "" {
		if f != (api.AuditFilter{Shard: -1}) {
			return usageError{errors.New("--out exports everything, or it could not be verified: leave the filters out")}
		}
		return c.exportWhole(ctx, con)
	}
	if f == (api.AuditFilter{Shard: -1}) {
		in, err := cl.AuditExport(ctx, "")
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(con.out, in)
		return err
	}
	gone, err := cl.Archived(ctx)
	if err != nil {
		return err
	}
	tellArchived(con, gone.Archived)
	e := json.NewEncoder(con.out)
	return cl.Export(ctx, f, func(r api.Record) error { return e.Encode(r) })
}

type ledgerVerifyCmd struct {
	apiFlags   `embed:""`
	File       string `arg:"" optional:"" help:"An export or a proof: verify it offline."`
	Checkpoint string `placeholder:"FILE" help:"The signed checkpoint; default FILE.checkpoint, or the one in the proof."`
	Keys       string `placeholder:"FILE" help:"The keys you trust, a line each; default FILE.keys."`
	Signatures int    `help:"How many of the keys must have signed; default more than half."`
	All        bool   `help:"Every member of the cluster, not only the nodes of --api."`
	JSON       bool   `name:"json" help:"Print JSON."`
}

// Run has every given node verify its chains; the first bad record of each
// shard is named, and nodes that differ at equal length are an error.
func (c *ledgerVerifyCmd) Run(ctx context.Context, con console) error {
	if c.File != "" {
		return c.offline(con)
	}
	if c.All {
		if err := c.members(ctx); err != nil {
			return err
		}
	}
	var all []api.LedgerVerification
	for _, url := range c.API {
		one := c.apiFlags
		one.API = []string{url}
		cl, err := one.client()
		if err != nil {
			return err
		}
		v, err := cl.VerifyLedger(ctx)
		cl.Close()
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	if c.JSON {
		if err := printJSON(con.out, map[string]any{"nodes": all}); err != nil {
			return err
		}
	} else {
		var rows [][]string
		for _, v := range all {
			for _, h := range v.Heads {
				state := paint(con.out, green, "ok")
				for _, b := range v.Bad {
					if b.Shard == h.Shard {
						state = paint(con.out, red, fmt.Sprintf("bad at record %d: %s", b.Seq, b.Reason))
					}
				}
				rows = append(rows, []string{v.NodeID, strconv.Itoa(int(h.Shard)), strconv.FormatUint(h.Size, 10), short(h.Hash, 20), state})
			}
		}
		table(con.out, "NODE SHARD RECORDS HEAD STATE", rows)
	}
	return compare(all)
}

// members takes the addresses of the cluster's members.
func (c *ledgerVerifyCmd) members(ctx context.Context) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	v, err := cl.Cluster(ctx)
	if err != nil {
		return err
	}
	c.API = nil
	for _, n := range v.Nodes {
		if n.Role == "member" {
			c.API = append(c.API, n.APIAddr)
		}
	}
	return nil
}

// compare finds a bad record, or two nodes whose heads of equal length differ.
func compare(all []api.LedgerVerification) error {
	type at struct {
		shard uint32
		size  uint64
	}
	heads := map[at]api.LedgerHead{}
	owner := map[at]string{}
	for _, v := range all {
		if !v.OK {
			return api.Errorf(500, 7, "ledger_corrupt", api.RetryNo, "node %s, shard %d: first bad record %d: %s", v.NodeID, v.Bad[0].Shard, v.Bad[0].Seq, v.Bad[0].Reason)
		}
		for _, h := range v.Heads {
			k := at{h.Shard, h.Size}
			if o, ok := heads[k]; ok && o.Hash != h.Hash {
				return api.Errorf(500, 7, "ledgers_differ", api.RetryNo, "nodes %s and %s differ at record %d of shard %d", owner[k], v.NodeID, h.Size, h.Shard)
			}
			heads[k], owner[k] = h, v.NodeID
		}
	}
	return nil
}
