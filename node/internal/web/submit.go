package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/quorate/quorate/node/api"
)

// ndjsonChunk is how many lines of a bulk submit go to the cluster at once, and
// chunkBytes how long they are together, the last one not counted.
const (
	ndjsonChunk = 256
	chunkBytes  = 4 << 20
)

// isLines says that a body is a stream of lines.
func isLines(r *http.Request) bool {
	ct := r.Header.Get("Content-Type")
	return strings.HasPrefix(ct, "application/x-ndjson") || strings.HasPrefix(ct, "application/jsonl")
}

func (s *server) submit(w http.ResponseWriter, r *http.Request) error {
	if isLines(r) {
		return s.submitLines(w, r)
	}
	b, err := body(r)
	if err != nil {
		return err
	}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		return s.submitMany(w, r, b)
	}
	if limit := s.oneLimit(); int64(len(b)) > limit {
		return errTooLarge("the body", limit)
	}
	spec := make([]api.TaskSpec, 1)
	if err := decode(b, &spec[0]); err != nil {
		return err
	}
	verdicts, err := s.b.Submit(r.Context(), spec, actor(r))
	if err != nil {
		return err
	}
	v := verdicts[0]
	if v.Error != nil {
		return v.Error
	}
	status := http.StatusCreated
	if v.Replayed {
		status = http.StatusOK
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.Header().Set("Location", "/v1/tasks/"+v.TaskID)
	s.write(w, status, v)
	return nil
}

// submitMany takes an array: one that does not decode is refused whole, one
// that does gets a verdict for each task.
func (s *server) submitMany(w http.ResponseWriter, r *http.Request, b []byte) error {
	var specs []api.TaskSpec
	if err := decode(b, &specs); err != nil {
		return err
	}
	if len(specs) > api.MaxBatch {
		return errBatch(len(specs), "tasks").WithHint("send several requests, or NDJSON, which has no limit")
	}
	verdicts, err := s.b.Submit(r.Context(), specs, actor(r))
	return answer(s, w, submitAnswer{verdicts}, err)
}

func errBatch(n int, what string) *api.Error {
	return api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d %s in one request, at most %d", n, what, api.MaxBatch)
}

// submitLines takes NDJSON in constant memory: a chunk is submitted and its
// verdicts are written before the next is read. A line that is no task gets a
// verdict like any other. When the cluster refuses a whole chunk, its lines
// get that verdict and the answer ends: what has no verdict was not submitted.
func (s *server) submitLines(w http.ResponseWriter, r *http.Request) error {
	leave, err := s.lasts(r)
	if err != nil {
		return err
	}
	defer leave()
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("full duplex: %w", err)
	}
	limit := int(s.oneLimit())
	in := bufio.NewScanner(r.Body)
	in.Buffer(make([]byte, 64<<10), limit+len("\r\n")+1) // the scanner wants room behind the longest line
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := json.NewEncoder(w)
	by := actor(r)
	for more := true; more; {
		var c chunk
		c, more = readChunk(in, limit)
		verdicts, err := s.verdicts(r, c, by)
		for _, v := range verdicts {
			if out.Encode(v) != nil {
				return nil // the client has gone
			}
		}
		if _ = rc.Flush(); err != nil {
			return nil // its verdicts say so
		}
		if b, ok := r.Body.(*timedBody); ok { // what was read of the next ones as well is not counted: at most a line
			s.cfg.Bytes.Give(b.meter.Done())
		}
	}
	if err := in.Err(); err != nil {
		e := asError(bodyError(err))
		if errors.Is(err, bufio.ErrTooLong) {
			e = errTooLarge("a line", int64(limit))
		}
		_ = out.Encode(api.SubmitVerdict{Error: e}) // the last word either way
	}
	return nil
}

// chunk is some lines: the tasks among them, and what is wrong with the
// others.
type chunk struct {
	specs []api.TaskSpec
	bad   []*api.Error // for each line; nil: the next of specs
}

// readChunk reads up to ndjsonChunk lines, or chunkBytes of them; more is false
// behind the last.
func readChunk(in *bufio.Scanner, limit int) (c chunk, more bool) {
	for size := 0; len(c.bad) < ndjsonChunk && size < chunkBytes; {
		if !in.Scan() {
			return c, false
		}
		line := bytes.TrimSpace(in.Bytes())
		if len(line) == 0 {
			continue
		}
		size += len(line)
		var spec api.TaskSpec
		var err error
		if len(line) > limit {
			err = errTooLarge("a line", int64(limit))
		} else if err = decode(line, &spec); err == nil {
			c.specs = append(c.specs, spec)
		}
		c.bad = append(c.bad, asError(err))
	}
	return c, true
}

// verdicts submits a chunk and gives a verdict for each line.
func (s *server) verdicts(r *http.Request, c chunk, by string) ([]api.SubmitVerdict, error) {
	var got []api.SubmitVerdict
	var err error
	if len(c.specs) > 0 {
		got, err = s.b.Submit(r.Context(), c.specs, by)
	}
	out := make([]api.SubmitVerdict, len(c.bad))
	for i, e := range c.bad {
		switch {
		case e != nil:
			out[i].Error = e
		case err != nil:
			out[i].Error = asError(err)
		default:
			out[i], got = got[0], got[1:]
		}
	}
	return out, err
}

// asError is err as every face shows it; nil stays nil.
func asError(err error) *api.Error {
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errBad("malformed_json", "the body ends in the middle")
	}
	return api.Errorf(500, 2, "internal", api.RetryLater, "%v", err)
}
