package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quorate/quorate/node/api"
)

type retentionCmd struct {
	apiFlags `embed:""`
	Fleet    string         `default:"*" help:"Of this fleet; *: of those without their own."`
	Tasks    *time.Duration `placeholder:"72h" help:"How long ended tasks live; 0: for ever."`
	Keys     *time.Duration `placeholder:"24h" help:"How long idempotency keys live; a task with a key stays as long. 0: for ever."`
	Records  *time.Duration `placeholder:"2160h" help:"How long audit records stay in the journals, then they are archived (quorate start --archive-dir); 0: for ever."`
	Archive  bool           `default:"true" negatable:"" help:"With --records: drop them without an archive."`
	Remove   bool           `help:"Leave the fleet to the default."`
	By       string         `help:"Who asks."`
	JSON     bool           `name:"json" help:"Print JSON."`
}

// Run prints or sets retentions.
func (c *retentionCmd) Run(ctx context.Context, con console) error {
	if c.Remove && (c.Tasks != nil || c.Keys != nil || c.Records != nil) {
		return usageError{errors.New("--remove takes neither --tasks nor --keys nor --records")}
	}
	for _, d := range []*time.Duration{c.Tasks, c.Keys, c.Records} {
		if d != nil && *d%time.Millisecond != 0 {
			return usageError{fmt.Errorf("%v is not in whole milliseconds", *d)}
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if c.Remove {
		if err := errors.Join(cl.RemoveRetention(ctx, c.Fleet), cl.RemoveRecordRetention(ctx, c.Fleet)); err != nil {
			return err
		}
	}
	if c.Records != nil {
		if _, err := cl.SetRecordRetention(ctx, api.RecordRetention{FleetID: c.Fleet, RecordsMillis: c.Records.Milliseconds(), NoArchive: !c.Archive, By: c.By}); err != nil {
			return err
		}
	}
	p, err := cl.Retentions(ctx)
	if err != nil {
		return err
	}
	if c.Tasks != nil || c.Keys != nil {
		if _, err := cl.SetRetention(ctx, c.changed(&p)); err != nil {
			return err
		}
		if p, err = cl.Retentions(ctx); err != nil {
			return err
		}
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, r := range p.Retentions {
		rows = append(rows, []string{r.FleetID, forHowLong(r.TasksMillis), forHowLong(r.KeysMillis), dash(r.By), r.SetAt.Format("2006-01-02T15:04:05Z")})
	}
	rows = append(rows, []string{"(default)", forHowLong(p.DefaultMillis), forHowLong(p.DefaultMillis), "-", "-"})
	table(con.out, "FLEET TASKS KEYS BY SET", rows)
	if len(p.Records) == 0 {
		return nil
	}
	rows = nil
	for _, r := range p.Records {
		then := "archived"
		if r.NoArchive {
			then = "dropped"
		}
		rows = append(rows, []string{r.FleetID, forHowLong(r.RecordsMillis), then, dash(r.By), r.SetAt.Format("2006-01-02T15:04:05Z")})
	}
	fmt.Fprintln(con.out)
	table(con.out, "FLEET RECORDS THEN BY SET", rows)
	return nil
}

// changed is the fleet's retention with what was given; what was not stays as
// it is.
func (c *retentionCmd) changed(p *api.RetentionPage) api.Retention {
	r := api.Retention{FleetID: c.Fleet, TasksMillis: p.DefaultMillis, KeysMillis: p.DefaultMillis, By: c.By}
	for _, name := range []string{"*", c.Fleet} {
		for _, x := range p.Retentions {
			if x.FleetID == name {
				r.TasksMillis, r.KeysMillis = x.TasksMillis, x.KeysMillis
			}
		}
	}
	if c.Tasks != nil {
		r.TasksMillis = c.Tasks.Milliseconds()
	}
	if c.Keys != nil {
		r.KeysMillis = c.Keys.Milliseconds()
	}
	return r
}

func forHowLong(ms int64) string {
	if ms == 0 {
		return "for ever"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}
