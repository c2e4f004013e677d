package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/quorate/quorate/node/api"
)

type ledgerArchiveCmd struct {
	apiFlags `embed:""`
	List     bool `help:"Archive nothing now."`
	JSON     bool `name:"json" help:"Print JSON."`
}

// Run archives what is over, and lists what the journals lack.
func (c *ledgerArchiveCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	run := cl.Archive
	if c.List {
		run = cl.Archived
	}
	p, err := run(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, r := range p.Runs {
		file := "dropped"
		if r.File != "" {
			file = filepath.Join(p.Directory, r.File)
		}
		rows = append(rows, []string{strconv.Itoa(int(r.Shard)), fmt.Sprintf("%d-%d", r.First, r.Last), file})
	}
	if len(rows) > 0 {
		table(con.out, "SHARD RECORDS ARCHIVE", rows)
	} else if !c.List {
		fmt.Fprintln(con.err, "nothing whose time is over can leave the journals")
	}
	tellArchived(con, p.Archived)
	return nil
}

// tellArchived says what a list can't have.
func tellArchived(con console, list []api.Archived) {
	for _, a := range list {
		where := "dropped without an archive"
		if a.File != "" {
			where = fmt.Sprintf("archived on %s, up to %s", a.NodeID, a.File)
		}
		fmt.Fprintf(con.err, "shard %d: records 1 to %d are not in the journals: %s\n", a.Shard, a.Records, where)
	}
}
