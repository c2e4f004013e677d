package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// Limits of a file of tasks.
const (
	fileChunk    = 256     // lines in one request
	maxLineBytes = 4 << 20 // of one task
)

// fileDefaults are what flags say, as JSON, for lines that don't say it; nil:
// no flag says anything.
func (c *submitCmd) fileDefaults(in io.Reader) ([]byte, error) {
	switch {
	case c.What != "":
		return nil, errors.New("give ACTION:TARGET or --file, not both")
	case c.Key != "":
		return nil, errors.New("--key with --file would make one task of all lines: give each line an idempotency_key")
	case c.File == "-" && c.Input == "-":
		return nil, errors.New("--file and --input can't both be read from standard input")
	}
	spec, err := c.options(in)
	if err != nil || reflect.ValueOf(spec).IsZero() {
		return nil, err
	}
	return json.Marshal(spec)
}

// file submits every line of a file. A line that is no task stops it before
// the lines of its chunk are submitted; a task that is refused does not.
func (c *submitCmd) file(ctx context.Context, con console, cl *client.Client) error {
	defaults, err := c.fileDefaults(con.in)
	if err != nil {
		return usageError{err}
	}
	in := con.in
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return usageError{err}
		}
		defer f.Close()
		in = f
	}
	b := bulk{con: con, cl: cl, json: c.JSON, wait: c.Wait}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		s, err := lineTask(line, defaults)
		if err != nil {
			return usageError{fmt.Errorf("%s line %d: %w", c.File, n, err)}
		}
		b.specs, b.lines = append(b.specs, s), append(b.lines, n)
		if len(b.specs) == fileChunk {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return usageError{fmt.Errorf("%s: %w", c.File, err)}
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	if !c.JSON {
		fmt.Fprintf(con.out, "%d accepted, %d known already, %d refused\n", b.accepted, b.replayed, b.refused)
	}
	unfinished, err := b.awaitEnds(ctx)
	if err != nil {
		return err
	}
	if b.refused > 0 {
		return api.Errorf(422, 5, "some_refused", api.RetryNo, "%d of %d tasks were refused", b.refused, b.refused+b.accepted+b.replayed)
	}
	if unfinished > 0 {
		return api.Errorf(409, 5, "not_completed", api.RetryNo, "%d of %d tasks ended otherwise", unfinished, b.accepted+b.replayed)
	}
	return nil
}

// lineTask is the task of a line; what it leaves out is as in defaults.
func lineTask(line, defaults []byte) (s api.TaskSpec, err error) {
	if defaults != nil {
		if err := json.Unmarshal(defaults, &s); err != nil {
			return s, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if _, more := d.Token(); !errors.Is(more, io.EOF) {
		return s, errors.New("something follows the task")
	}
	return s, nil
}

// bulk collects tasks and submits them by the chunk.
type bulk struct {
	con                         console
	cl                          *client.Client
	json                        bool
	specs                       []api.TaskSpec
	lines                       []int // where each of specs came from
	accepted, replayed, refused int
	wait                        bool
	given                       []givenTask // with wait: those to wait for
}

type givenTask struct {
	id   string
	line int
}

// awaitEnds waits until every task that was taken has ended, in the order of
// the lines, and counts those that did not complete.
func (b *bulk) awaitEnds(ctx context.Context) (otherwise int, err error) {
	for _, g := range b.given {
		t, err := b.cl.Wait(ctx, g.id)
		if err != nil {
			return otherwise, err
		}
		if t.State != "completed" {
			otherwise++
			fmt.Fprintf(b.con.err, "line %d: task %s ended %s: %s\n", g.line, t.TaskID, t.State, t.LastError)
		}
		if b.json {
			if err := json.NewEncoder(b.con.out).Encode(t); err != nil {
				return otherwise, err
			}
		}
	}
	if b.wait && !b.json {
		fmt.Fprintf(b.con.out, "%d completed, %d ended otherwise\n", len(b.given)-otherwise, otherwise)
	}
	return otherwise, nil
}

func (b *bulk) flush(ctx context.Context) error {
	if len(b.specs) == 0 {
		return nil
	}
	vs, err := b.cl.SubmitBatch(ctx, b.specs)
	if err != nil {
		return err
	}
	for i, v := range vs {
		switch {
		case v.Error != nil:
			b.refused++
			fmt.Fprintf(b.con.err, "line %d: %v\n", b.lines[i], v.Error)
		case v.Replayed:
			b.replayed++
		default:
			b.accepted++
		}
		waits := b.wait && v.Error == nil
		if waits {
			b.given = append(b.given, givenTask{v.TaskID, b.lines[i]})
		}
		if b.json && !waits { // of those that are waited for, the end is printed
			if err := json.NewEncoder(b.con.out).Encode(v); err != nil {
				return err
			}
		}
	}
	b.specs, b.lines = b.specs[:0], b.lines[:0]
	return nil
}
