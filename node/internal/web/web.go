package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"slices"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/gate"
)

// Backend is what a node offers every face. Errors are, or wrap, *api.Error.
type Backend interface {
	Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error)
	Task(ctx context.Context, id string, wait time.Duration) (api.Task, error)
	Tasks(ctx context.Context, f api.TaskFilter) (api.TaskPage, error)
	Why(ctx context.Context, id string) (api.Why, error)
	Cancel(ctx context.Context, id, by, reason string) (api.Task, error)
	Erase(ctx context.Context, id, by, reason string) (api.Task, error)
	Retry(ctx context.Context, id, by string) (api.Task, error)
	Declare(ctx context.Context, list []api.ActionRequest, by string) ([]api.ActionVerdict, error)
	Approve(ctx context.Context, id string, j api.Judgement) (api.Task, error)
	Reject(ctx context.Context, id string, j api.Judgement) (api.Task, error)
	Resolve(ctx context.Context, id string, r api.Resolution) (api.Task, error)
	Rollback(ctx context.Context, id, by, reason string) (api.Task, error)
	RollbackSession(ctx context.Context, session string, r api.SessionRollback) (api.Task, error)
	Save(ctx context.Context, id string, s api.SaveRequest, snapshot bool) (api.Task, error)
	Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error)
	Start(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Renew(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Progress(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error)
	Register(ctx context.Context, m api.Manifest) (api.Agent, error)
	Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error)
	Agent(ctx context.Context, id string) (api.Agent, error)
	Agents(ctx context.Context, f api.AgentFilter) (api.AgentPage, error)
	Trust(ctx context.Context, id string) (api.Trust, error)
	Trusts(ctx context.Context, f api.TrustFilter) (api.TrustPage, error)
	Deregister(ctx context.Context, id string) error
	Session(ctx context.Context, agentID string, held []api.Held, send func(api.SessionEvent) error) error
	Audit(ctx context.Context, f api.AuditFilter) (api.RecordPage, error)
	ExportAudit(ctx context.Context, f api.AuditFilter, fn func(api.Record) error) error
	PutPack(ctx context.Context, in api.PackText) (api.RulePack, error)
	Packs(ctx context.Context) (api.PackPage, error)
	Pack(ctx context.Context, name string) (api.RulePack, error)
	RemovePack(ctx context.Context, name, by string) error
	BindFleet(ctx context.Context, in api.FleetPacks) (api.FleetPacks, error)
	ValidateCompliance(ctx context.Context, in api.ComplianceRequest) (api.ComplianceDecision, error)
	Retentions(ctx context.Context) (api.RetentionPage, error)
	SetRetention(ctx context.Context, in api.Retention) (api.Retention, error)
	RemoveRetention(ctx context.Context, fleet, by string) error
	SetRecordRetention(ctx context.Context, in api.RecordRetention) (api.RecordRetention, error)
	RemoveRecordRetention(ctx context.Context, fleet, by string) error
	Archive(ctx context.Context) (api.ArchivePage, error)
	Archived(ctx context.Context) (api.ArchivePage, error)
	Backup(ctx context.Context, shard uint32, w io.Writer) error
	Export(ctx context.Context, sizes map[uint32]uint64, w io.Writer) error
	Checkpoint(ctx context.Context) ([]byte, error)
	AuditKeys(ctx context.Context) (string, error)
	Prove(ctx context.Context, shard uint32, seq, from uint64) (any, error)
	Events(ctx context.Context, q api.EventRequest, ready func(id string), fn func(api.Event) error) error
	LedgerHeads(ctx context.Context) ([]api.LedgerHead, error)
	VerifyLedger(ctx context.Context) (api.LedgerVerification, error)
	Cluster(ctx context.Context) (api.Cluster, error)
	Nodes(ctx context.Context) (api.NodeList, error)
	AddNode(ctx context.Context, nodeID, peerAddr, by string) (api.ClusterNode, error)
	PromoteNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error)
	DrainNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error)
	RemoveNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error)
	Join(ctx context.Context, j api.JoinRequest) (api.JoinAnswer, error)
	Doctor(ctx context.Context) (api.Doctor, error)
	Ready() error
	Metrics() http.Handler
	Gateway() []string
}

// Config of the face. Zero fields take the default.
type Config struct {
	MaxPayloadBytes int // of one task's input, context or result; default 1 MiB
	MaxBatchBytes   int // of a body that carries many; default 64 MiB
	// BodyTimeout is how long a body may take to arrive; each read of a
	// stream. Default one minute.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take nothing of its answer. Default
	// 30 s.
	WriteTimeout time.Duration
	Logger       *slog.Logger
	// Gate bounds requests that last: sessions, events, long polls, NDJSON.
	// Default: one of its own.
	Gate *gate.Gate
	// Bytes bounds what the bodies of all requests take; default: one of its own.
	Bytes *gate.Bytes
	// Streams serves the paths under StreamPrefix; nil: nothing does.
	Streams      http.Handler
	StreamPrefix string
}

// bodySlack is what a body may have beside its payloads: names, keys, braces.
const bodySlack = 64 << 10

type server struct {
	b       Backend
	cfg     Config
	gateway *httputil.ReverseProxy
}

// New renders b.
func New(b Backend, cfg Config) http.Handler {
	if cfg.MaxPayloadBytes == 0 {
		cfg.MaxPayloadBytes = 1 << 20
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.BodyTimeout == 0 {
		cfg.BodyTimeout = time.Minute
	}
	if cfg.Gate == nil {
		cfg.Gate = gate.New(gate.Config{})
	}
	if cfg.Bytes == nil {
		cfg.Bytes = gate.NewBytes(0)
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = writeTimeout
	}
	s := &server{b: b, cfg: cfg}
	s.gateway = newGateway(b, s)
	ops := s.operations()
	mux := http.NewServeMux()
	for _, o := range ops {
		mux.Handle(o.method+" "+o.path, s.handler(o))
	}
	doc := openAPI(ops)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc)
	})
	mux.HandleFunc("GET /llms.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, llms)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.write(w, 200, map[string]string{"status": "alive"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			s.fail(w, err)
			return
		}
		s.write(w, 200, map[string]string{"status": "ready"})
	})
	mux.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.Metrics().ServeHTTP(w, r) }))
	return s.outer(mux)
}

// ready is nil when requests are served; by a gateway, when it knows a member.
func (s *server) ready() error {
	urls := s.b.Gateway()
	switch {
	case len(urls) == 0:
		return s.b.Ready()
	case !slices.ContainsFunc(urls, func(u string) bool { return u != "" }):
		return api.Errorf(503, 5, "no_member_reachable", api.RetryLater, "this gateway knows no reachable member of its cluster")
	}
	return nil
}
