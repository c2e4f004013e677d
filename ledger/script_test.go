package ledger

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestControlScripts runs the golden scripts of the control shard.
func TestControlScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/control", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.parse(d)
			return longRuns.ReplaceAllStringFunc(s.runControl(t, d.Cmd), func(m string) string { return fmt.Sprintf("<%d x>", len(m)) })
		})
		checkChain(t, ControlShard, s.journal.records, s.control.Head())
	})
}

// TestTasksScripts runs the golden scripts of the task shard. Each directive
// is a command (label=value arguments; task IDs are one-letter names) or one
// of: checkpoint, freeze, thaw, restart, task, list, live, counts. The answer
// is the outcome, the records written and the events told.
func TestTasksScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/tasks", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.parse(d)
			out := s.run(t, d.Cmd)
			checkInvariants(t, s.tasks)
			out = s.named(out)
			return longRuns.ReplaceAllStringFunc(out, func(m string) string { return fmt.Sprintf("<%d x>", len(m)) })
		})
		checkChain(t, 1, s.journal.records, s.tasks.Head())
	})
}

var longRuns = regexp.MustCompile("x{40,}")

type script struct {
	tasks   *Tasks
	control *Control
	cold    *memCold
	journal *memJournal
	args    map[string]string
	index   uint64
	now     int64
	meta    []byte
	labels  map[TaskID]string
	shown   int // records printed
}

func newScript(t *testing.T) *script {
	s := &script{cold: newMemCold(), now: 1000, labels: map[TaskID]string{}}
	s.tasks, s.journal = newTestTasks(t, 1, s.cold)
	s.control = NewControl(s.cold, s.journal.append)
	return s
}

func (s *script) parse(d *datadriven.TestData) {
	s.args = map[string]string{}
	for _, a := range d.CmdArgs {
		s.args[a.Key] = strings.Join(a.Vals, ",")
	}
	s.now = s.num("now", s.now)
}

func (s *script) num(name string, otherwise int64) int64 {
	v, ok := s.args[name]
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (s *script) has(name string) bool { _, ok := s.args[name]; return ok }

func (s *script) text(name, otherwise string) string {
	if v, ok := s.args[name]; ok {
		if n, long := strings.CutPrefix(v, "long:"); long {
			k, _ := strconv.Atoi(n)
			return strings.Repeat("x", k)
		}
		return v
	}
	return otherwise
}

// id makes a label's task ID: a is 1, b is 2, …; a longer one was given by
// the script when the ledger made the task.
func (s *script) id() TaskID {
	for id, l := range s.labels {
		if l == s.args["id"] {
			return id
		}
	}
	return s.idOf(s.args["id"])
}

func (s *script) idOf(label string) TaskID {
	n, shard := int64(label[0]-'a')+1, uint32(s.num("shard", 1))
	if _, other, ok := strings.Cut(label, "@"); ok { // a task of another shard
		shard = uint32(must(strconv.Atoi(other)))
	}
	id := NewTaskID(shard, 1000+n, uint64(n))
	s.labels[id] = label
	return id
}

func (s *script) label(id TaskID) string {
	if l, ok := s.labels[id]; ok {
		return l
	}
	if t, ok, _ := s.tasks.Task(id); ok && t.Txn != nil && t.Txn.Role != RoleNone { // made by the ledger
		l := fmt.Sprintf("%s-of-%s", t.Txn.Role, s.label(t.Txn.Of))
		for _, known := range s.labels {
			if known == l {
				l += "-again"
			}
		}
		s.labels[id] = l
		return l
	}
	return id.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (s *script) spec() Spec {
	p := testSpec()
	p.Fleet, p.Action, p.Target = s.text("fleet", "default"), s.text("action", "vet"), s.text("target", "go")
	p.Key, p.SubmittedBy, p.Session, p.Description = s.text("key", ""), s.text("by", ""), s.text("session", ""), s.text("description", "")
	if of := s.text("key-of", ""); of != "" { // the task's ID
		p.Key = s.idOf(of).String()
	}
	p.Priority = Priority(s.num("priority", 1))
	p.Guarantee = must(ParseGuarantee(s.text("guarantee", "at_least_once")))
	if s.has("guarantee-number") {
		p.Guarantee = Guarantee(s.num("guarantee-number", 0))
	}
	p.DeadlineMillis, p.NotBeforeMillis, p.LeaseMillis = s.num("deadline", 0), s.num("not-before", 0), s.num("lease", 60_000)
	p.Retry = RetryPolicy{MaxRetries: uint32(s.num("retries", 3)), Backoff: Backoff(s.num("backoff", 0)),
		InitialDelayMillis: s.num("delay", 1000), MaxDelayMillis: s.num("max-delay", 60_000)}
	if v := s.text("input", ""); v != "" {
		p.Input = []byte(v)
	}
	if v := s.text("after", ""); v != "" {
		p.After = s.ids(v)
	}
	return p
}

func (s *script) command(name string) Command {
	id, agent, epoch := TaskID{}, s.text("agent", "w1"), uint64(s.num("epoch", 0))
	if s.has("id") {
		id = s.id()
	}
	switch name {
	case "submit":
		return submitOf(id, s.spec())
	case "complete":
		return &Complete{ID: id, Agent: agent, Epoch: epoch, Result: []byte(s.text("result", "")), Node: s.text("node", "n1"),
			AssignedMillis: s.num("assigned", 0), StartedMillis: s.num("started", 0), StolenFrom: s.text("stolen-from", "")}
	case "fail":
		return &Fail{ID: id, Agent: agent, Epoch: epoch, Error: s.text("error", "boom"), Retryable: !s.has("no-retry"), Node: s.text("node", "n1"),
			Result: []byte(s.text("result", ""))}
	case "expire":
		return &Expire{ID: id, Agent: agent, Epoch: epoch, Reason: Reason(s.num("reason", 0))}
	case "due":
		return &Due{ID: id}
	case "timeout":
		return &Timeout{ID: id}
	case "cancel":
		return &Cancel{ID: id, By: s.text("by", ""), Reason: s.text("reason", "")}
	case "retry":
		return &Retry{ID: id, By: s.text("by", "")}
	case "refused":
		return &Refused{ID: id, Agent: agent, Epoch: epoch, Verb: s.text("verb", "renew"), Code: Code(s.num("code", int64(StaleLease)))}
	case "ruled":
		return &Ruled{ID: id, Fleet: s.text("fleet", "f"), Capability: s.text("capability", "erase:crm"), Guarantee: AtLeastOnce, By: s.text("by", "alice"),
			Code: Code(s.num("code", int64(OK))), Packs: s.text("packs", ""), Detail: s.text("detail", ""), Evidence: s.text("evidence", ""),
			Regulations: s.list2("refs"), Classification: s.text("classification", "")}
	case "evict-settled":
		return &EvictSettled{BeforeMillis: s.num("before", s.now+1), IDs: []TaskID{id}}
	case "evict":
		return &Evict{BeforeMillis: s.num("before", s.now+1), IDs: []TaskID{id}}
	case "erase":
		return &Erase{ID: id, By: s.text("by", ""), Reason: s.text("reason", "")}
	case "audit-format":
		return &AuditFormat{Version: uint8(s.num("version", AuditFormatNow))}
	case "agent-deregister":
		return &AgentDeregister{ID: agent}
	}
	return s.txnCommand(name, id, agent, epoch)
}

func (s *script) run(t *testing.T, cmd string) string {
	if c := s.command(cmd); c != nil {
		s.index++
		o, events := s.tasks.Apply(At{Index: s.index, Term: uint64(s.num("term", 0)), TimeMillis: s.now}, c.Append(nil), nil)
		return s.answer(o, events)
	}
	switch cmd {
	case "freeze", "checkpoint":
		puts, deletes, meta := s.tasks.Freeze()
		if err := uniqueKeys(puts, deletes); err != nil {
			t.Fatal(err)
		}
		s.cold.write(puts, deletes)
		s.meta = meta
		out := s.rows(puts, deletes)
		if cmd == "checkpoint" {
			s.tasks.Thaw()
		}
		return out + s.memory()
	case "outbox":
		return s.letters()
	case "stuck":
		var b strings.Builder
		for _, id := range s.tasks.Stuck() {
			fmt.Fprintln(&b, s.label(id))
		}
		return b.String()
	case "thaw":
		s.tasks.Thaw()
		return s.memory()
	case "restart": // from the last checkpoint, without replay
		if err := s.tasks.Restore(s.meta); err != nil {
			return err.Error() + "\n"
		}
		return s.memory()
	case "task":
		v, ok, err := s.tasks.Task(s.id())
		if !ok || err != nil {
			return fmt.Sprintf("found=%v err=%v\n", ok, err)
		}
		return s.task(&v)
	case "list":
		return s.list()
	case "live":
		var b strings.Builder
		s.tasks.Live(func(x Brief) bool {
			fmt.Fprintf(&b, "%s %s %s %s %s %s attempts=%d epoch=%d created=%d ready=%d not-before=%d deadline=%d lease=%d\n", s.label(x.ID), x.State,
				x.Fleet, x.Capability, x.Priority, x.Guarantee, x.Attempts, x.Epoch, x.CreatedMillis, x.ReadyMillis, x.NotBeforeMillis, x.DeadlineMillis, x.LeaseMillis)
			return true
		})
		return b.String()
	case "counts":
		var b strings.Builder
		for st, n := range s.tasks.Counts() {
			if n > 0 {
				fmt.Fprintf(&b, "%s=%d ", State(st), n)
			}
		}
		return b.String() + "\n"
	}
	t.Fatalf("no directive %q", cmd)
	return ""
}

func (s *script) memory() string { return fmt.Sprintf("in memory: %d\n", s.tasks.slab.used) }

func (s *script) rows(puts []KV, deletes [][]byte) string {
	var b strings.Builder
	name := func(k []byte) string {
		if k[0] == prefixKey {
			return "k"
		}
		return string(k[:1]) + " " + s.label(TaskID(k[1:]))
	}
	for _, kv := range puts {
		if kv.Key[0] == prefixLetter {
			fmt.Fprintf(&b, "put letter %d\n", kv.Key[16])
			continue
		}
		fmt.Fprintf(&b, "put %s\n", name(kv.Key))
	}
	for _, k := range deletes {
		if k[0] == prefixLetter {
			fmt.Fprintf(&b, "delete letter %d\n", k[16])
			continue
		}
		fmt.Fprintf(&b, "delete %s\n", name(k))
	}
	return b.String()
}

func (s *script) task(v *Task) string {
	return fmt.Sprintf("%s %s epoch=%d attempts=%d agent=%q result=%s error=%q key=%q deadline=%d\n  created=%d updated=%d completed=%d not-before=%d ready=%d\n",
		s.label(v.ID), v.State, v.Epoch, v.Attempts, v.Agent, v.Result, v.Error, v.Spec.Key, v.Spec.DeadlineMillis,
		v.CreatedMillis, v.UpdatedMillis, v.CompletedMillis, v.NotBeforeMillis, v.ReadyMillis) + s.txn(v.Txn)
}

func (s *script) list() string {
	q := Query{Fleet: s.text("fleet", ""), Action: s.text("action", ""), Target: s.text("target", ""), Agent: s.text("agent", ""),
		Session: s.text("session", ""), Limit: int(s.num("limit", 0))}
	if v := s.text("after", ""); v != "" {
		q.After = s.idOf(v)
	}
	if v := s.text("states", ""); v != "" {
		for _, n := range strings.Split(v, ",") {
			q.States = append(q.States, must(ParseState(n)))
		}
	}
	ts, err := s.tasks.List(q)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for i := range ts {
		fmt.Fprintf(&b, "%s %s\n", s.label(ts[i].ID), ts[i].State)
	}
	return b.String()
}

// answer shows an outcome, and what was recorded and told.
func (s *script) answer(o Outcome, events []Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", o.Code)
	if !o.ID.IsZero() {
		fmt.Fprintf(&b, " %s", s.label(o.ID))
	}
	if o.State != 0 {
		fmt.Fprintf(&b, " %s epoch=%d", o.State, o.Epoch)
	}
	if o.Replayed {
		b.WriteString(" replayed")
	}
	if o.Detail != "" {
		fmt.Fprintf(&b, ": %s", o.Detail)
	}
	b.WriteString("\n")
	for _, e := range events {
		s.label(e.ID)
	}
	b.WriteString(s.records())
	for _, e := range events {
		fmt.Fprintf(&b, "event %s %s -> %s attempts=%d epoch=%d agent=%q settled=%v not-before=%d ready=%d\n", s.label(e.ID), orNone(e.From.String()), e.State,
			e.Attempts, e.Epoch, e.Agent, e.Settled, e.NotBeforeMillis, e.ReadyMillis)
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// records shows what was recorded since the last time.
func (s *script) records() string {
	var b strings.Builder
	for _, j := range s.journal.records[s.shown:] {
		if j[0] == recordVersion1 {
			j = j[:len(j)-hashSize]
		}
		r := must(DecodeRecord(j))
		fmt.Fprintf(&b, "record %d at %d: %s", r.Seq, r.TimeMillis, r.Verb)
		if !r.Task.IsZero() {
			fmt.Fprintf(&b, " %s %s/%s %s %s -> %s attempt=%d", s.label(r.Task), r.Fleet, r.Capability, r.Guarantee, orNone(r.From.String()), r.To, r.Attempt)
		}
		for _, f := range []struct{ name, value string }{{"agent", r.Agent}, {"actor", r.Actor}, {"stolen-from", r.StolenFrom}, {"detail", r.Detail},
			{"approver", r.Approver}, {"session", r.Session}, {"classification", r.Classification}, {"regulations", strings.Join(r.Regulations, ",")},
			{"pack", r.Pack}, {"evidence", r.Evidence}} {
			if f.value != "" {
				fmt.Fprintf(&b, " %s=%q", f.name, f.value)
			}
		}
		for _, f := range []struct {
			name  string
			value int64
		}{{"epoch", int64(r.Epoch)}, {"assigned", r.AssignedMillis}, {"started", r.StartedMillis}} {
			if f.value != 0 {
				fmt.Fprintf(&b, " %s=%d", f.name, f.value)
			}
		}
		if r.Code != OK {
			fmt.Fprintf(&b, " code=%s", r.Code)
		}
		if r.RequestDigest != ([32]byte{}) {
			fmt.Fprintf(&b, " request=%x", r.RequestDigest[:4])
		}
		if r.ResultDigest != ([32]byte{}) {
			fmt.Fprintf(&b, " result=%x", r.ResultDigest[:4])
		}
		if r.ParamsDigest != ([32]byte{}) {
			fmt.Fprintf(&b, " params=%x", r.ParamsDigest[:4])
		}
		if r.FromLoad|r.ToLoad != 0 {
			fmt.Fprintf(&b, " loads=%d,%d", r.FromLoad, r.ToLoad)
		}
		for i, id := range []TaskID{r.Parent, r.VerifyTask, r.RollbackTask} {
			if !id.IsZero() {
				fmt.Fprintf(&b, " %s=%s", []string{"parent", "verify", "rollback"}[i], s.label(id))
			}
		}
		b.WriteString("\n")
	}
	s.shown = len(s.journal.records)
	return b.String()
}
