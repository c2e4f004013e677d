package node

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quorate/quorate/ledger"
)

// metrics are a node's counters; gauges are read from the node when scraped.
// Names carry their layer: quorate_l5_… is coordination.
type metrics struct {
	registry  *prometheus.Registry
	submitted prometheus.Counter
	leased    prometheus.Counter
	settled   *prometheus.CounterVec

	rollbacksFailed prometheus.Counter
	applyWaits      prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		submitted: prometheus.NewCounter(prometheus.CounterOpts{Name: "quorate_l5_tasks_submitted_total", Help: "Tasks submitted through this node, refused ones included."}),
		leased:    prometheus.NewCounter(prometheus.CounterOpts{Name: "quorate_l5_leases_granted_total", Help: "Tasks handed to agents through this node."}),
		settled:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quorate_l5_tasks_settled_total", Help: "Attempts ended through this node, by verdict."}, []string{"verdict"}),
	}
	m.rollbacksFailed = prometheus.NewCounter(prometheus.CounterOpts{Name: "quorate_l7_rollbacks_failed_total", Help: "Rollbacks that failed on shards led here."})
	m.applyWaits = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quorate_l5_apply_wait_seconds",
		Help:    "How long applying an entry waited for a checkpoint's step or a reader, when it had to.",
		Buckets: []float64{.0001, .0005, .001, .002, .005, .01, .02, .05, .1, .5}})
	m.registry.MustRegister(m.applyWaits, m.rollbacksFailed, m.submitted, m.leased, m.settled, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Metrics serves the node's metrics in the Prometheus text format.
func (n *core) Metrics() http.Handler {
	return promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{})
}

// gauges reads the node's state when it is scraped.
type gauges struct{ n *core }

var (
	descLeader   = prometheus.NewDesc("quorate_l5_shard_leader", "1 if this node leads the shard.", []string{"shard"}, nil)
	descTerm     = prometheus.NewDesc("quorate_l5_shard_term", "Raft term.", []string{"shard"}, nil)
	descCommit   = prometheus.NewDesc("quorate_l5_shard_commit_index", "Highest log index known to be committed.", []string{"shard"}, nil)
	descApplied  = prometheus.NewDesc("quorate_l5_shard_applied_index", "Highest log index applied here.", []string{"shard"}, nil)
	descJournal  = prometheus.NewDesc("quorate_l7_audit_journal_bytes", "Size of the audit journal.", []string{"shard"}, nil)
	descTree     = prometheus.NewDesc("quorate_l7_audit_tree_bytes", "Size of the hashes of audit records, and of their index.", []string{"shard", "kind"}, nil)
	descRecords  = prometheus.NewDesc("quorate_l7_audit_records", "Records in the audit chain.", []string{"shard"}, nil)
	descTasks    = prometheus.NewDesc("quorate_l5_tasks", "Tasks of the shards led here, by state.", []string{"state"}, nil)
	descQueue    = prometheus.NewDesc("quorate_l5_queue_length", "Tasks of a capability waiting, leased or delayed on shards led here.", []string{"capability", "phase"}, nil)
	descAgreed   = prometheus.NewDesc("quorate_l5_shard_agreed_index", "Last log index at which a majority was seen in the same state.", []string{"shard"}, nil)
	descDiffer   = prometheus.NewDesc("quorate_l5_shard_replicas_differing", "Replicas seen in another state than this node's.", []string{"shard"}, nil)
	descEqual    = prometheus.NewDesc("quorate_l5_shard_digests_equal_total", "State digests of other replicas that were found equal to this node's.", []string{"shard"}, nil)
	descFree     = prometheus.NewDesc("quorate_l5_disk_free_bytes", "Free space of the data directory's disk; -1: not known.", nil, nil)
	descUsed     = prometheus.NewDesc("quorate_l5_disk_used_bytes", "What the parts of the data take on disk: log, state, journal, hashes, index, archive, other.", []string{"part"}, nil)
	descReserve  = prometheus.NewDesc("quorate_l5_disk_reserve_bytes", "With less free, new tasks are refused.", nil, nil)
	descLow      = prometheus.NewDesc("quorate_l5_disk_low", "1 while new tasks are refused for lack of space.", nil, nil)
	descRefused  = prometheus.NewDesc("quorate_l5_disk_full_refused_total", "Submissions refused for lack of space.", nil, nil)
	descStalled  = prometheus.NewDesc("quorate_l5_disk_stalled", "1 while log writes take too long, and for ten seconds after.", nil, nil)
	descStalls   = prometheus.NewDesc("quorate_l5_disk_stalls_total", "How often log writes began to take too long.", nil, nil)
	descPending  = prometheus.NewDesc("quorate_l5_log_write_pending_seconds", "How long the log write that is waited for has been on its way.", nil, nil)
	descStuck    = prometheus.NewDesc("quorate_l7_rollbacks_unsettled", "Failed rollbacks of shards led here that nobody has settled.", nil, nil)
	descSteals   = prometheus.NewDesc("quorate_l5_steals_total", "Tasks that idle agents stole, of shards led here, by the nodes of the victim and the thief.", []string{"from", "to"}, nil)
	descPeers    = prometheus.NewDesc("quorate_l2_peers_connected", "Peers with a connection.", nil, nil)
	descMemory   = prometheus.NewDesc("quorate_l5_live_tasks_bytes", "What the tasks in memory take, about.", nil, nil)
	descSessions = prometheus.NewDesc("quorate_l3_agent_sessions", "Agents connected to this node.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(g, ch) }

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := g.n
	states := map[string]int{}
	queue := map[string]*deskCounts{}
	stuck := 0
	for _, s := range n.store.Status() {
		shard := shardName(s.Shard)
		led := 0.0
		if s.Leader == n.id.RaftID {
			led = 1
			if m := n.taskShard(s.Shard); m != nil {
				m.view(func(t *ledger.Tasks) { addCounts(states, t); stuck += len(t.Stuck()) })
				n.desk(s.Shard).counts(queue)
			}
		}
		gauge(descLeader, led, shard)
		gauge(descTerm, float64(s.Term), shard)
		gauge(descCommit, float64(s.Commit), shard)
		gauge(descApplied, float64(s.Applied), shard)
		gauge(descJournal, float64(s.JournalBytes-s.JournalStart), shard)
		gauge(descAgreed, float64(s.AgreedIndex), shard)
		gauge(descDiffer, float64(len(s.Differ)), shard)
		ch <- prometheus.MustNewConstMetric(descEqual, prometheus.CounterValue, float64(s.DigestsEqual), shard)
		hashes, index := n.trails.bytes(s.Shard)
		gauge(descTree, float64(hashes), shard, "hashes")
		gauge(descTree, float64(index), shard, "index")
		gauge(descRecords, float64(n.head(s.Shard).Seq), shard)
	}
	for s, c := range states {
		gauge(descTasks, float64(c), s)
	}
	for c, q := range queue {
		gauge(descQueue, float64(q.queued), c, "queued")
		gauge(descQueue, float64(q.leased), c, "leased")
		gauge(descQueue, float64(q.delayed), c, "delayed")
	}
	g.disk(ch)
	up := 0
	for _, v := range n.others() {
		if n.peers.Up(v.RaftID) {
			up++
		}
	}
	for _, s := range n.counts.list().Nodes {
		ch <- prometheus.MustNewConstMetric(descSteals, prometheus.CounterValue, float64(s.Tasks), s.From, s.To)
	}
	gauge(descStuck, float64(stuck))
	gauge(descPeers, float64(up))
	gauge(descMemory, float64(n.liveBytes()))
	gauge(descSessions, float64(len(n.sessions.all())))
}

func (g gauges) disk(ch chan<- prometheus.Metric) {
	h := g.n.store.DiskHealth()
	truth := map[bool]float64{true: 1}
	for d, v := range map[*prometheus.Desc]float64{descFree: float64(h.FreeBytes), descReserve: float64(h.ReserveBytes), descLow: truth[h.Low], descStalled: truth[h.Stalled], descPending: h.Pending.Seconds()} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	p := g.n.diskParts()
	for part, v := range map[string]int64{"log": p.Log, "state": p.State, "journal": p.Journal, "hashes": p.Hashes, "index": p.Index, "archive": p.Archive, "other": p.Other} {
		ch <- prometheus.MustNewConstMetric(descUsed, prometheus.GaugeValue, float64(v), part)
	}
	for d, v := range map[*prometheus.Desc]uint64{descRefused: h.Refused, descStalls: h.Stalls} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}

// addCounts adds a shard's tasks by state.
func addCounts(into map[string]int, t *ledger.Tasks) {
	for s, c := range t.Counts() {
		if c > 0 {
			into[ledger.State(s).String()] += int(c)
		}
	}
}
