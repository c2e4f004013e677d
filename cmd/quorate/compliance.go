package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
)

type complianceCmd struct {
	List     packListCmd    `cmd:"" help:"List rule packs and the fleets they bind."`
	Show     packShowCmd    `cmd:"" help:"Print a rule pack."`
	Put      packPutCmd     `cmd:"" help:"Enter a rule pack; a version never changes."`
	Remove   packRemoveCmd  `cmd:"" help:"Remove a rule pack that binds no fleet."`
	Bind     packBindCmd    `cmd:"" help:"Check a fleet's intents against packs, in the order given; none ends it."`
	Validate validateCmd    `cmd:"" help:"Say what the rules would make of a task (JSON); exit code 1 when they refuse it."`
	Example  packExampleCmd `cmd:"" help:"Print a pack to start from."`
}

// readText reads a file, or the standard input for "-".
func readText(con console, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(con.in)
	}
	return os.ReadFile(name)
}

type packListCmd struct {
	apiFlags `embed:""`
	JSON     bool `name:"json" help:"Print JSON."`
}

// Run lists packs.
func (c *packListCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := cl.Packs(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, x := range p.Packs {
		rows = append(rows, []string{x.Name, strconv.Itoa(x.RuleCount), dash(x.Regulation), dash(strings.Join(x.Fleets, ",")), dash(x.EnteredBy),
			x.EnteredAt.Format("2006-01-02T15:04:05Z"), short(x.SHA256, 16)})
	}
	table(con.out, "PACK RULES REGULATION FLEETS BY ENTERED SHA256", rows)
	return nil
}

type packShowCmd struct {
	apiFlags `embed:""`
	Name     string `arg:"" help:"ID@version."`
	JSON     bool   `name:"json" help:"Print JSON, with the rules as parsed."`
}

// Run prints a pack.
func (c *packShowCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := cl.Pack(ctx, c.Name)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	_, err = io.WriteString(con.out, p.Text)
	return err
}

type packPutCmd struct {
	apiFlags `embed:""`
	File     string `arg:"" help:"YAML file, - for the standard input."`
	By       string `help:"Who asks."`
}

// Run enters a pack.
func (c *packPutCmd) Run(ctx context.Context, con console) error {
	text, err := readText(con, c.File)
	if err != nil {
		return usageError{err}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := cl.PutPack(ctx, string(text), c.By)
	if err != nil {
		return err
	}
	fmt.Fprintf(con.out, "%s, %d rules, sha256 %s\n", p.Name, p.RuleCount, p.SHA256)
	return nil
}

type packRemoveCmd struct {
	apiFlags `embed:""`
	Name     string `arg:"" help:"ID@version."`
}

// Run removes a pack.
func (c *packRemoveCmd) Run(ctx context.Context) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.RemovePack(ctx, c.Name)
}

type packBindCmd struct {
	apiFlags `embed:""`
	Fleet    string   `arg:"" help:"Fleet."`
	Packs    []string `arg:"" optional:"" help:"ID@version each."`
	By       string   `help:"Who asks."`
}

// Run binds a fleet.
func (c *packBindCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	b, err := cl.BindFleet(ctx, c.Fleet, c.Packs, c.By)
	if err != nil {
		return err
	}
	fmt.Fprintf(con.out, "fleet %s: %s\n", b.FleetID, dash(strings.Join(b.Packs, ", ")))
	return nil
}

type validateCmd struct {
	apiFlags `embed:""`
	Task     string   `arg:"" help:"Task as JSON: a file, or - for the standard input."`
	Agent    string   `help:"Who would perform it."`
	Pack     []string `help:"Ask these (ID@version) in place of the fleet's."`
	Try      string   `help:"Ask a pack that is not entered, too: a YAML file." placeholder:"FILE"`
	JSON     bool     `name:"json" help:"Print JSON."`
}

// Run validates a task.
func (c *validateCmd) Run(ctx context.Context, con console) error {
	req := api.ComplianceRequest{AgentID: c.Agent, Packs: c.Pack}
	b, err := readText(con, c.Task)
	if err == nil {
		err = json.Unmarshal(b, &req.Task)
	}
	if err == nil && c.Try != "" {
		b, err = os.ReadFile(c.Try)
		req.Text = string(b)
	}
	if err != nil {
		return usageError{err}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	d, err := cl.Validate(ctx, req)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(con.out, d)
	} else {
		printDecision(con.out, d)
	}
	if err == nil && d.Decision == "refuse" {
		return api.Errorf(403, 7, "rule_violated", api.RetryNo, "the rules refuse it").WithHint("each violated rule above says what is missing")
	}
	return err
}

func printDecision(w io.Writer, d api.ComplianceDecision) {
	fmt.Fprintf(w, "%s: %d rules of %s\n", strings.ReplaceAll(d.Decision, "_", " "), d.Triggered, dash(strings.Join(d.Packs, ", ")))
	if d.Approvers > 0 {
		fmt.Fprintf(w, "  approvers needed  %d\n", d.Approvers)
	}
	if d.Guarantee != "" {
		fmt.Fprintf(w, "  level needed      %s\n", d.Guarantee)
	}
	var rows [][]string
	for _, v := range d.Violations {
		rows = append(rows, []string{v.Rule, v.Effect, dash(v.Reference), v.Message, v.Why})
	}
	if len(rows) > 0 {
		table(w, "RULE EFFECT REFERENCE MESSAGE WHY", rows)
	}
}

type packExampleCmd struct{}

// Run prints the example.
func (packExampleCmd) Run(con console) error {
	_, err := con.out.Write(node.ExamplePack())
	return err
}
