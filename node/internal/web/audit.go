package web

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/quorate/quorate/node/api"
)

// fullExport streams everything in the format of ledger/proof. sizes gives
// the length of each shard, as a checkpoint has it: 0:12,1:400.
func (s *server) fullExport(w http.ResponseWriter, r *http.Request) error {
	sizes, err := readSizes(r.URL.Query().Get("sizes"))
	if err != nil {
		return err
	}
	out := &lazyBody{w: w}
	if err := s.b.Export(r.Context(), sizes, out); err != nil {
		if !out.begun {
			return err
		}
		s.cfg.Logger.Warn("export ended early", "layer", 7, "error", err)
		panic(http.ErrAbortHandler) // the client must see that the stream is cut
	}
	return nil
}

// maxSizes bounds the shards that a request names.
const maxSizes = 1024

func readSizes(text string) (map[uint32]uint64, error) {
	if text == "" {
		return nil, nil
	}
	sizes := map[uint32]uint64{}
	for _, part := range strings.Split(text, ",") {
		a, b, ok := strings.Cut(part, ":")
		shard, err1 := strconv.ParseUint(a, 10, 32)
		size, err2 := strconv.ParseUint(b, 10, 63)
		if !ok || err1 != nil || err2 != nil || len(sizes) == maxSizes {
			return nil, errBad("bad_parameter", "sizes=%q is not SHARD:SIZE,…", text)
		}
		sizes[uint32(shard)] = size
	}
	return sizes, nil
}

// lazyBody sends the header with the first byte, so that an error before it
// can still be answered.
type lazyBody struct {
	w     http.ResponseWriter
	begun bool
}

func (b *lazyBody) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	return b.w.Write(p)
}

func (s *server) checkpoint(w http.ResponseWriter, r *http.Request) error {
	b, err := s.b.Checkpoint(r.Context())
	if err != nil {
		return err
	}
	return plain(w, string(b))
}

func (s *server) auditKeys(w http.ResponseWriter, r *http.Request) error {
	keys, err := s.b.AuditKeys(r.Context())
	if err != nil {
		return err
	}
	return plain(w, keys)
}

func plain(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, text)
	return err
}

// proof proves one record (shard, seq), or that a shard's log extends what it
// was (shard, from_size).
func (s *server) proof(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if !q.Has("shard") || q.Has("seq") == q.Has("from_size") {
		return errBad("bad_parameter", "a proof needs shard, and seq or from_size")
	}
	var n [3]uint64
	for i, name := range []string{"shard", "seq", "from_size"} {
		v, err := strconv.ParseUint(q.Get(name), 10, 63)
		if err != nil && q.Has(name) || i == 0 && v > 1<<32-1 || i == 1 && q.Has(name) && v == 0 {
			return errBad("bad_parameter", "%s=%q is not a number that fits", name, q.Get(name))
		}
		n[i] = v
	}
	p, err := s.b.Prove(r.Context(), uint32(n[0]), n[1], n[2])
	return answer(s, w, p, err)
}

func (s *server) erase(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[reasonBody](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.Erase(r.Context(), r.PathValue("id"), in.By, in.Reason)
	return answer(s, w, t, err)
}

// filtered says that an export is asked for a part only.
func filtered(f *api.AuditFilter) bool {
	g := *f
	g.Shard = -1
	return f.Shard >= 0 || fmt.Sprint(g) != fmt.Sprint(api.AuditFilter{Shard: -1})
}
