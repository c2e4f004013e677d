package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// The desk, scripted: testdata/desk holds what it is told and what it does.
func TestDeskScript(t *testing.T) {
	datadriven.Walk(t, "testdata/desk", func(t *testing.T, path string) {
		s := &deskScript{handles: map[ledger.TaskID]sched.Handle{}}
		s.desk = newDesk(1, func(list []ready) {
			for _, r := range list {
				i := uint32(r.handle)
				id := s.desk.mu.slots[i].brief.ID
				s.handles[id] = r.handle
				fmt.Fprintf(&s.out, "push %s %s band %d\n", name(id), r.capability, r.band)
			}
		})
		datadriven.RunTest(t, path, s.run)
	})
}

type deskScript struct {
	desk    *desk
	handles map[ledger.TaskID]sched.Handle
	now     int64
	out     strings.Builder
}

const scriptStart = 1_700_000_000_000

func taskNamed(s string) ledger.TaskID { return ledger.NewTaskID(1, scriptStart, uint64(s[0])) }
func name(id ledger.TaskID) string     { return string(rune(id[15])) }

var verdictNames = map[claimVerdict]string{claimHolds: "holds", claimStale: "stale", claimUnknown: "unknown", claimNoDesk: "no desk"}

// deskArgs are a script line's arguments; times are milliseconds after the
// script's start.
type deskArgs struct {
	task, agent, state       string
	epoch, term              uint64
	now, notBefore, deadline int64
	ended, lease             int64
	id                       ledger.TaskID
	brief                    ledger.Brief
}

func parseDeskArgs(t *testing.T, d *datadriven.TestData) (a deskArgs) {
	a.lease = 60_000
	for _, arg := range d.CmdArgs {
		for key, to := range map[string]any{"task": &a.task, "agent": &a.agent, "state": &a.state, "epoch": &a.epoch, "term": &a.term,
			"now": &a.now, "notbefore": &a.notBefore, "deadline": &a.deadline, "ended": &a.ended, "lease": &a.lease} {
			if arg.Key == key {
				arg.Scan(t, 0, to)
			}
		}
	}
	a.brief = ledger.Brief{Fleet: "f", Capability: "do:it", Priority: ledger.PriorityNormal, LeaseMillis: a.lease, Epoch: uint64(a.ended)}
	if a.task != "" {
		a.id = taskNamed(a.task)
		a.brief.ID = a.id
	}
	if a.notBefore > 0 {
		a.brief.NotBeforeMillis = scriptStart + a.notBefore
	}
	if a.deadline > 0 {
		a.brief.CreatedMillis, a.brief.DeadlineMillis = scriptStart, scriptStart+a.deadline
	}
	return a
}

func (s *deskScript) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	defer func() {
		if err := s.desk.checkHands(); err != nil {
			d.Fatalf(t, "%v", err)
		}
	}()
	a := parseDeskArgs(t, d)
	if a.now > 0 {
		s.now = a.now
	}
	at, id, agent, epoch, brief := scriptStart+s.now, a.id, a.agent, a.epoch, a.brief
	switch d.Cmd {
	case "lead":
		s.desk.lead(a.term, func(fn func(ledger.Brief) bool) {
			if brief.State = ledger.StateReady; a.task != "" {
				fn(brief)
			}
		})
	case "follow":
		s.desk.follow()
	case "open":
		var reports []report
		if a.task != "" {
			reports = append(reports, report{id: id, agent: agent, node: 9, epoch: epoch})
		}
		s.desk.open(a.term, reports, at)
	case "event":
		var err error
		if brief.State, err = ledger.ParseState(a.state); err != nil {
			t.Fatal(err)
		}
		s.desk.applied([]ledger.Event{{Brief: brief}})
	case "lease":
		for _, g := range s.desk.leaseTo([]sched.Handle{s.handles[id]}, agent, 9, at, nil) {
			fmt.Fprintf(&s.out, "granted %s epoch %s attempt %d\n", name(g.id), epochText(g.epoch), g.attempt)
		}
	case "renew":
		h, v := s.desk.renew(id, agent, 9, epoch, false, nil, at)
		fmt.Fprintf(&s.out, "%s", verdictNames[v])
		if v == claimHolds {
			fmt.Fprintf(&s.out, " until %d", h.expires-scriptStart)
		}
		s.out.WriteByte('\n')
	case "settle":
		_, _, _, v := s.desk.settling(id, agent, epoch, at)
		fmt.Fprintln(&s.out, verdictNames[v])
	case "confirm":
		s.desk.confirm(id, epoch)
	case "giveback":
		if _, done := s.desk.giveBack(id, epoch); !done {
			fmt.Fprintln(&s.out, "not done")
		}
	case "due":
		cmds, asks := s.desk.due(at)
		s.commands(cmds)
		for _, u := range asks {
			fmt.Fprintf(&s.out, "ask node %d about %s epoch %s\n", u.node, name(u.id), epochText(u.epoch))
		}
	case "lost":
		s.commands(s.desk.lost(agent))
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	if s.out.Len() == 0 {
		return "nothing\n"
	}
	return s.out.String()
}

func epochText(e uint64) string {
	return fmt.Sprintf("%d (term %d, %d)", e, e>>epochTermShift, e&(1<<epochTermShift-1))
}

func (s *deskScript) commands(cmds []ledger.Command) {
	for _, c := range cmds {
		switch c := c.(type) {
		case *ledger.Expire:
			fmt.Fprintf(&s.out, "propose expire %s of %s epoch %d: %s\n", name(c.ID), c.Agent, c.Epoch, c.Reason)
		case *ledger.Due:
			fmt.Fprintf(&s.out, "propose due %s\n", name(c.ID))
		case *ledger.Timeout:
			fmt.Fprintf(&s.out, "propose timeout %s\n", name(c.ID))
		}
	}
}
