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

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// Limits of a file of tasks.
const (
	fileChunk    = 256     // lines in one request
	maxLineBytes = 4 << 20 // of one task
)

// file submits every line of a file. A line that is no task stops it before
// the lines of its chunk are submitted; a task that is refused does not.
func (c *submitCmd) file(ctx context.Context, con console, cl *client.Client) error {
	in := con.in
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return usageError{err}
		}
		defer f.Close()
		in = f
	}
	b := bulk{con: con, cl: cl, json: c.JSON}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var s api.TaskSpec
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		err := d.Decode(&s)
		if err == nil {
			if _, more := d.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("something follows the task")
			}
		}
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
	if b.refused > 0 {
		return api.Errorf(422, 5, "some_refused", api.RetryNo, "%d of %d tasks were refused", b.refused, b.refused+b.accepted+b.replayed)
	}
	return nil
}

// bulk collects tasks and submits them by the chunk.
type bulk struct {
	con                         console
	cl                          *client.Client
	json                        bool
	specs                       []api.TaskSpec
	lines                       []int // where each of specs came from
	accepted, replayed, refused int
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
		if b.json {
			if err := json.NewEncoder(b.con.out).Encode(v); err != nil {
				return err
			}
		}
	}
	b.specs, b.lines = b.specs[:0], b.lines[:0]
	return nil
}
