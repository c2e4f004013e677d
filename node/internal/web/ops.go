package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

type reasonBody struct {
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty" doc:"Who asks; default the X-Quorate-Actor header, else the remote address"`
}

type settleBody struct {
	AgentID  string           `json:"agent_id,omitempty"`
	Outcomes []api.Settlement `json:"outcomes"`
}

type settleAnswer struct {
	Outcomes []api.SettleVerdict `json:"outcomes"`
}

type settleOne struct {
	AgentID string          `json:"agent_id"`
	Epoch   uint64          `json:"epoch"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
	NoRetry bool            `json:"no_retry,omitempty"`
	InDoubt bool            `json:"in_doubt,omitempty" doc:"fail: it can't tell whether the effect happened"`
}

type sessionBody struct {
	Held []api.Held `json:"held,omitempty"`
}

type submitAnswer struct {
	Tasks []api.SubmitVerdict `json:"tasks"`
}

type headsAnswer struct {
	Heads []api.LedgerHead `json:"heads"`
}

var auditQuery = []string{"agent_id", "from", "to", "verb", "task_id", "fleet_id", "regulation_ref", "guarantee_level", "session_id", "action", "target", "shard", "limit", "cursor"}

// operations is the one table of what the API does.
func (s *server) operations() []operation {
	ops := []operation{
		{"POST", "/v1/tasks", "submit", "Declare a task, an array of tasks, or NDJSON. One: 201, or 200 with Idempotent-Replayed when its key is known. Many: 200 with a verdict each, in order.",
			api.TaskSpec{}, submitAnswer{}, nil, lines, (*server).submit},
		{"GET", "/v1/tasks", "list_tasks", "List tasks by shard and age.", nil, api.TaskPage{},
			[]string{"state", "fleet_id", "action", "target", "agent_id", "session_id", "rollback_failed", "limit", "cursor", consistency}, one, (*server).tasks},
		{"GET", "/v1/tasks/{id}", "get_task", "Read a task, waiting up to ?wait= for its end.", nil, api.Task{}, []string{"wait", consistency}, one, (*server).task},
		{"GET", "/v1/tasks/{id}/why", "why", "Say where a task stands and what it waits for.", nil, api.Why{}, nil, one, (*server).why},
		{"POST", "/v1/tasks/{id}/cancel", "cancel", "End a task; its holder is told to stop.", reasonBody{}, api.Task{}, nil, one, (*server).cancel},
		{"POST", "/v1/tasks/{id}/erase", "erase", "Take the payload out of an ended task for ever; its digests in the audit log stay.", reasonBody{}, api.Task{}, nil, one, (*server).erase},
		{"POST", "/v1/tasks/{id}/retry", "retry", "Make a failed, cancelled or timed out task ready again.", reasonBody{}, api.Task{}, nil, one, (*server).retry},
		{"POST", "/v1/tasks/{id}/start", "start", "Mark a held task running.", api.Claim{}, api.Renewal{}, nil, one, claimOp(Backend.Start)},
		{"POST", "/v1/tasks/{id}/renew", "renew", "Prolong a lease.", api.Claim{}, api.Renewal{}, nil, one, claimOp(Backend.Renew)},
		{"POST", "/v1/tasks/{id}/progress", "progress", "Report progress and prolong the lease.", api.Claim{}, api.Renewal{}, nil, one, claimOp(Backend.Progress)},
		{"POST", "/v1/tasks/{id}/complete", "complete", "End a held task well.", settleOne{}, api.SettleVerdict{}, nil, one, settleOp("complete")},
		{"POST", "/v1/tasks/{id}/fail", "fail", "End an attempt; the retry policy decides about another.", settleOne{}, api.SettleVerdict{}, nil, one, settleOp("fail")},
		{"POST", "/v1/leases", "lease", "Take work for an agent, waiting for the first task.", api.LeaseRequest{}, api.Leases{}, nil, one, (*server).lease},
		{"POST", "/v1/leases/settle", "settle", "Complete and fail many held tasks, a verdict each.", settleBody{}, settleAnswer{}, nil, many, (*server).settle},
		{"POST", "/v1/agents/register", "register_agent", "Enter an agent's capability manifest; capabilities may be \"action:target\" strings.", api.Manifest{}, api.Agent{}, nil, one, (*server).register},
		{"GET", "/v1/agents", "list_agents", "List agents, best first when an action is given.", nil, api.AgentPage{},
			[]string{"action", "target", "fleet_id", "state", "limit", "cursor", consistency}, one, (*server).agents},
		{"GET", "/v1/agents/{id}", "get_agent", "Read an agent.", nil, api.Agent{}, []string{consistency}, one, (*server).agent},
		{"DELETE", "/v1/agents/{id}", "deregister_agent", "Remove an agent; what it holds goes to others.", nil, nil, nil, one, (*server).deregister},
		{"POST", "/v1/agents/{id}/heartbeat", "heartbeat", "Say that an agent is alive, and how loaded.", api.Heartbeat{}, api.HeartbeatAck{}, nil, one, (*server).heartbeat},
		{"POST", "/v1/agents/{id}/session", "session", "Stay connected (NDJSON of events): the end of the connection is the agent's loss.", sessionBody{}, api.SessionEvent{}, nil, one, (*server).session},
		{"GET", "/v1/audit", "list_records", "List audit records.", nil, api.RecordPage{}, append(slices.Clone(auditQuery), consistency), one, (*server).audit},
		{"GET", "/v1/audit/export", "export_records", "Stream the audit log as NDJSON with canonical bytes: all of it, up to the sizes given (SHARD:SIZE,…), verifiable offline; or with a filter some records of it.", nil, api.Record{}, append(slices.Clone(auditQuery), "sizes"), one, (*server).export},
		{"GET", "/v1/audit/checkpoint", "audit_checkpoint", "Make an audit checkpoint: a signed note (text/plain) of all shards' tree heads, cosigned by the peers.", nil, nil, nil, one, (*server).checkpoint},
		{"GET", "/v1/audit/keys", "audit_keys", "The public keys of audit checkpoints (text/plain), a line each.", nil, nil, nil, one, (*server).auditKeys},
		{"GET", "/v1/audit/proof", "audit_proof", "Prove a record (shard, seq), or that a shard's log extends what it was (shard, from_size).", nil, nil, []string{"shard", "seq", "from_size"}, one, (*server).proof},
		{"GET", "/v1/audit/heads", "ledger_heads", "Where the answering node's chains end.", nil, headsAnswer{}, nil, one, (*server).heads},
		{"GET", "/v1/audit/verify", "verify_ledger", "Have the answering node recompute its chains from disk.", nil, api.LedgerVerification{}, nil, one, (*server).verify},
		{"GET", "/v1/backup/{shard}", "backup", "Stream one shard as of now, for `quorate backup`; only the node that leads it does.", nil, nil, nil, one, (*server).backup},
		{"GET", "/v1/events", "events", "Audit records of the answering node as server-sent events; go on with the Last-Event-ID header, or begin with from=start.", nil, nil,
			[]string{"agent_id", "verb", "task_id", "fleet_id", "session_id", "from"}, one, (*server).events},
		{"GET", "/v1/cluster", "cluster", "Nodes, shards, leaders, queues, agents.", nil, api.Cluster{}, nil, one, (*server).cluster},
		{"GET", "/v1/doctor", "doctor", "Health, layer by layer, with what to do.", nil, api.Doctor{}, nil, one, (*server).doctor},
	}
	ops = append(ops, s.transactions()...)
	ops = append(ops, nodeOperations()...)
	ops = append(ops, s.rules()...)
	ops = append(ops, s.trustOperations()...)
	ops = append(ops, s.retention()...)
	for _, l := range unsupported {
		ops = append(ops, operation{l.method, l.path, l.name, notSupported + ": answers 501.", nil, nil,
			[]string{"tier", "shard", "seq", "limit", "cursor"}, one,
			func(*server, http.ResponseWriter, *http.Request) error {
				return api.Errorf(501, l.layer, "not_yet_supported", api.RetryNo, "%s is not supported by this version", l.name).WithHint("GET /openapi.json lists what is")
			}})
	}
	return ops
}

const notSupported = "Not supported by this version"

// unsupported operations answer 501 and are not described.
var unsupported = []struct {
	method, path, name string
	layer              int
}{{"POST", "/mcp", "mcp", 2}}

func (s *server) tasks(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := number("limit", q.Get("limit"))
	if err != nil {
		return err
	}
	failed, err := truth("rollback_failed", q.Get("rollback_failed"))
	if err != nil {
		return err
	}
	f := api.TaskFilter{FleetID: q.Get("fleet_id"), Action: q.Get("action"), Target: q.Get("target"), AgentID: q.Get("agent_id"),
		SessionID: q.Get("session_id"), RollbackFailed: failed, Limit: limit, Cursor: q.Get("cursor")}
	for _, v := range q["state"] {
		f.States = append(f.States, strings.Split(v, ",")...)
	}
	p, err := s.b.Tasks(r.Context(), f)
	return answer(s, w, p, err)
}

func (s *server) task(w http.ResponseWriter, r *http.Request) error {
	wait, err := seconds("wait", r.URL.Query().Get("wait"))
	if err != nil {
		return err
	}
	if wait > 0 {
		leave, err := s.lasts(r)
		if err != nil {
			return err
		}
		defer leave()
	}
	t, err := s.b.Task(r.Context(), r.PathValue("id"), wait)
	return answer(s, w, t, err)
}

func (s *server) why(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Why(r.Context(), r.PathValue("id"))
	return answer(s, w, v, err)
}

func (s *server) cancel(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[reasonBody](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.Cancel(r.Context(), r.PathValue("id"), in.By, in.Reason)
	return answer(s, w, t, err)
}

func (s *server) retry(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[reasonBody](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.Retry(r.Context(), r.PathValue("id"), in.By)
	return answer(s, w, t, err)
}

func (s *server) lease(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.LeaseRequest](r)
	if err != nil {
		return err
	}
	leave, err := s.lasts(r)
	if err != nil {
		return err
	}
	defer leave()
	in.WaitSeconds = min(in.WaitSeconds, maxWait.Seconds())
	v, err := s.b.Lease(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) settle(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[settleBody](r)
	if err != nil {
		return err
	}
	if len(in.Outcomes) > api.MaxBatch {
		return errBatch(len(in.Outcomes), "outcomes").WithHint("send several requests")
	}
	v, err := s.b.Settle(r.Context(), in.AgentID, in.Outcomes)
	return answer(s, w, settleAnswer{v}, err)
}

func (s *server) register(w http.ResponseWriter, r *http.Request) error {
	b, err := body(r)
	if err != nil {
		return err
	}
	var in api.Manifest
	if err := decode(b, &in); err != nil {
		return err
	}
	if e := blame(b, reflect.TypeFor[api.Manifest](), ""); e != nil {
		return e // a capability decodes itself, and not strictly
	}
	v, err := s.b.Register(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) agents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := number("limit", q.Get("limit"))
	if err != nil {
		return err
	}
	p, err := s.b.Agents(r.Context(), api.AgentFilter{Action: q.Get("action"), Target: q.Get("target"), FleetID: q.Get("fleet_id"),
		State: q.Get("state"), Limit: limit, Cursor: q.Get("cursor")})
	return answer(s, w, p, err)
}

func (s *server) agent(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Agent(r.Context(), r.PathValue("id"))
	return answer(s, w, v, err)
}

func (s *server) deregister(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.Deregister(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) heartbeat(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.Heartbeat](r)
	if err != nil {
		return err
	}
	v, err := s.b.Heartbeat(r.Context(), r.PathValue("id"), in)
	return answer(s, w, v, err)
}

func (s *server) session(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[sessionBody](r)
	if err != nil {
		return err
	}
	leave, err := s.lasts(r)
	if err != nil {
		return err
	}
	defer leave()
	rc := http.NewResponseController(w)
	out := json.NewEncoder(w)
	begun := false
	err = s.b.Session(r.Context(), r.PathValue("id"), in.Held, func(ev api.SessionEvent) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(200)
		}
		if err := out.Encode(ev); err != nil {
			return err
		}
		return rc.Flush()
	})
	if err != nil && begun {
		_ = out.Encode(api.SessionEvent{Type: "end", Reason: err.Error(), Error: asError(err)})
		return nil
	}
	return err
}

func (s *server) auditFilter(r *http.Request) (f api.AuditFilter, err error) {
	q := r.URL.Query()
	f = api.AuditFilter{AgentID: q.Get("agent_id"), Verb: q.Get("verb"), TaskID: q.Get("task_id"), FleetID: q.Get("fleet_id"),
		RegulationRef: q.Get("regulation_ref"), GuaranteeLevel: q.Get("guarantee_level"),
		SessionID: q.Get("session_id"), Action: q.Get("action"), Target: q.Get("target"), Cursor: q.Get("cursor"), Shard: -1}
	if f.Limit, err = number("limit", q.Get("limit")); err != nil {
		return f, err
	}
	if q.Has("shard") {
		if f.Shard, err = number("shard", q.Get("shard")); err != nil || f.Shard < 0 {
			return f, errBad("bad_parameter", "shard=%q is not a shard", q.Get("shard"))
		}
	}
	for name, t := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if v := q.Get(name); v != "" {
			if *t, err = time.Parse(time.RFC3339, v); err != nil {
				return f, errBad("bad_parameter", "%s=%q is not an RFC 3339 time", name, v)
			}
		}
	}
	return f, nil
}

func (s *server) audit(w http.ResponseWriter, r *http.Request) error {
	f, err := s.auditFilter(r)
	if err != nil {
		return err
	}
	p, err := s.b.Audit(r.Context(), f)
	return answer(s, w, p, err)
}

func (s *server) export(w http.ResponseWriter, r *http.Request) error {
	f, err := s.auditFilter(r)
	if err != nil {
		return err
	}
	if !filtered(&f) {
		return s.fullExport(w, r)
	}
	gone, err := s.b.Archived(r.Context())
	if err != nil {
		return err
	}
	for _, a := range gone.Archived { // what the stream can't have
		if f.Shard < 0 || uint32(f.Shard) == a.Shard {
			w.Header().Add("Quorate-Archived", fmt.Sprintf("shard=%d; records=1-%d; file=%q; node=%q", a.Shard, a.Records, a.File, a.NodeID))
		}
	}
	buf := bufio.NewWriterSize(w, 64<<10)
	out := json.NewEncoder(buf)
	begun := false
	err = s.b.ExportAudit(r.Context(), f, func(rec api.Record) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		return out.Encode(rec)
	})
	switch {
	case err != nil && !begun:
		return err
	case err != nil:
		_ = buf.Flush()
		s.cfg.Logger.Warn("export ended early", "layer", 7, "error", err)
		panic(http.ErrAbortHandler) // the client must see that the stream is cut
	case !begun:
		w.Header().Set("Content-Type", "application/x-ndjson")
	}
	return buf.Flush()
}

func (s *server) heads(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.LedgerHeads(r.Context())
	return answer(s, w, headsAnswer{v}, err)
}

func (s *server) verify(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.VerifyLedger(r.Context())
	return answer(s, w, v, err)
}

func (s *server) cluster(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Cluster(r.Context())
	return answer(s, w, v, err)
}

func (s *server) doctor(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Doctor(r.Context())
	return answer(s, w, v, err)
}

// claimOp renders start, renew and progress.
func claimOp(op func(Backend, context.Context, string, api.Claim) (api.Renewal, error)) func(*server, http.ResponseWriter, *http.Request) error {
	return func(s *server, w http.ResponseWriter, r *http.Request) error {
		in, err := strict[api.Claim](r)
		if err != nil {
			return err
		}
		v, err := op(s.b, r.Context(), r.PathValue("id"), in)
		return answer(s, w, v, err)
	}
}

// settleOp renders complete and fail of one task.
func settleOp(verdict string) func(*server, http.ResponseWriter, *http.Request) error {
	return func(s *server, w http.ResponseWriter, r *http.Request) error {
		in, err := strict[settleOne](r)
		if err != nil {
			return err
		}
		as := verdict
		if in.InDoubt && verdict == "fail" {
			as = "unknown"
		}
		v, err := s.b.Settle(r.Context(), in.AgentID, []api.Settlement{{TaskID: r.PathValue("id"), AgentID: in.AgentID, Epoch: in.Epoch,
			Verdict: as, Result: in.Result, Error: in.Error, NoRetry: in.NoRetry}})
		if err != nil {
			return err
		}
		if v[0].Error != nil {
			return v[0].Error
		}
		s.write(w, 200, v[0])
		return nil
	}
}

func (s *server) backup(w http.ResponseWriter, r *http.Request) error {
	shard, err := strconv.ParseUint(r.PathValue("shard"), 10, 32)
	if err != nil {
		return api.Errorf(400, 2, "invalid_argument", api.RetryNo, "shard %q is not a number", r.PathValue("shard"))
	}
	out := &begun{w: w}
	buf := bufio.NewWriterSize(out, 256<<10)
	if err = s.b.Backup(r.Context(), uint32(shard), buf); err == nil {
		err = buf.Flush()
	}
	if err != nil && out.yes {
		s.cfg.Logger.Warn("backup ended early", "layer", 5, "shard", shard, "error", err)
		panic(http.ErrAbortHandler) // the client must see that the stream is cut
	}
	return err
}

// begun notes that an answer is on its way.
type begun struct {
	w   http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.w.Header().Set("Content-Type", "application/octet-stream")
	}
	return b.w.Write(p)
}
