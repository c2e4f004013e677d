package chaos

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/quorate/quorate/node/api"
)

// progress is what is known of the demonstration's tasks at one moment.
type progress struct {
	total       int
	mine        map[string]bool // submitted
	counted     map[string]bool // seen ended
	ended       int
	running     int
	retries     int // attempts beyond the first
	byAgent     map[string]int
	byNode      map[string]int // by the node its agent was connected to when it was seen
	liveByShard map[uint32]int
}

func newProgress(total int) *progress {
	return &progress{total: total, mine: map[string]bool{}, counted: map[string]bool{}, byAgent: map[string]int{}, byNode: map[string]int{}}
}

// update takes in a look at the tasks, and says whether more have ended.
func (p *progress) update(tasks []api.Task, agents []api.Agent) bool {
	at := map[string]string{}
	for _, a := range agents {
		at[a.AgentID] = a.NodeID
	}
	before := p.ended
	p.running, p.retries, p.liveByShard = 0, 0, map[uint32]int{}
	for _, t := range tasks {
		if !p.mine[t.TaskID] {
			continue
		}
		p.retries += max(t.Attempts-1, 0)
		if !terminal(t.State) {
			p.liveByShard[shardOf(t.TaskID)]++
			if t.State != "ready" && t.State != "submitted" {
				p.running++
			}
			continue
		}
		if p.counted[t.TaskID] {
			continue
		}
		p.counted[t.TaskID] = true
		p.ended++
		p.byAgent[t.AgentID]++
		if node := at[t.AgentID]; node != "" {
			p.byNode[node]++
		}
	}
	return p.ended > before
}

// Widths and intervals of the view.
const (
	barCells     = 40
	lineInterval = 3 * time.Second // between lines when the output is no terminal
)

// view shows progress: redrawn in place on a terminal, a line every few
// seconds elsewhere, nothing at all for JSON.
type view struct {
	out      io.Writer
	silent   bool
	terminal bool
	drawn    int // lines of the last drawing, to be drawn over
	began    time.Time
	lastLine time.Time
}

func newView(out io.Writer, silent bool) *view {
	v := &view{out: out, silent: silent, began: time.Now()}
	if f, ok := out.(*os.File); ok {
		v.terminal = term.IsTerminal(int(f.Fd()))
	}
	return v
}

// say prints a line that stays.
func (v *view) say(format string, args ...any) {
	if v.silent {
		return
	}
	v.clear()
	fmt.Fprintf(v.out, "%6.1fs  %s\n", time.Since(v.began).Seconds(), fmt.Sprintf(format, args...))
}

// clear removes the last drawing.
func (v *view) clear() {
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// show draws the state of affairs.
func (v *view) show(p *progress, up map[string]bool) {
	if v.silent {
		return
	}
	if !v.terminal {
		if time.Since(v.lastLine) >= lineInterval {
			v.lastLine = time.Now()
			v.say("%d/%d done, %d running, %d retries; agents: %s; nodes: %s",
				p.ended, p.total, p.running, p.retries, counts(p.byAgent), nodeCounts(p, up))
		}
		return
	}
	v.clear()
	var b strings.Builder
	cells := barCells * p.ended / max(p.total, 1)
	fmt.Fprintf(&b, "%6.1fs  [%s%s] %d/%d, %d running, %d retries\n", time.Since(v.began).Seconds(),
		strings.Repeat("█", cells), strings.Repeat("·", barCells-cells), p.ended, p.total, p.running, p.retries)
	fmt.Fprintf(&b, "         agents: %s\n", counts(p.byAgent))
	fmt.Fprintf(&b, "         nodes:  %s\n", nodeCounts(p, up))
	v.drawn = strings.Count(b.String(), "\n")
	_, _ = io.WriteString(v.out, b.String())
}

// end leaves the last drawing standing.
func (v *view) end() { v.drawn = 0 }

func nodeCounts(p *progress, up map[string]bool) string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(up)) {
		s := fmt.Sprintf("%s %d", id, p.byNode[id])
		if !up[id] {
			s += " (down)"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}
