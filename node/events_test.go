package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Events begin now, come once and in order, and go on from an ID at another
// node.
func TestEvents(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	enough := errors.New("enough")
	collect := func(n *Node, after string, count int, begin func()) (got []api.Event) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := n.Events(ctx, api.EventRequest{After: after, Filter: api.AuditFilter{Verb: "submit", Shard: -1}}, func(string) { begin() }, func(ev api.Event) error {
			if ev.ID == "" {
				return nil
			}
			if got = append(got, ev); len(got) == count {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatalf("%d events, want %d: %v", len(got), count, err)
		}
		return got
	}
	c.submit(c.nodes[0], api.TaskSpec{Action: "before", Target: "it"})
	c.eventually("applied everywhere", func() error {
		for _, n := range c.nodes {
			if p, err := n.Audit(t.Context(), api.AuditFilter{Verb: "submit", Shard: -1}); err != nil || len(p.Records) != 1 {
				return fmt.Errorf("%s has %d: %v", n.NodeID(), len(p.Records), err)
			}
		}
		return nil
	})
	all := collect(c.nodes[0], "", 20, func() {
		for i := range 20 {
			c.submit(c.nodes[0], api.TaskSpec{Action: "do", Target: fmt.Sprint(i)})
		}
	})
	last := map[uint32]uint64{}
	for _, ev := range all {
		if ev.Record.Action != "do" || ev.Record.Seq <= last[ev.Record.Shard] {
			t.Errorf("event %+v after %d", ev.Record, last[ev.Record.Shard])
		}
		last[ev.Record.Shard] = ev.Record.Seq
	}
	seen := map[string]bool{}
	for _, ev := range all[:10] {
		seen[ev.Record.TaskID] = true
	}
	for _, ev := range collect(c.nodes[1], all[9].ID, 10, func() {}) {
		if seen[ev.Record.TaskID] {
			t.Errorf("%s again", ev.Record.TaskID)
		}
		seen[ev.Record.TaskID] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20", len(seen))
	}
	id := []byte(all[3].ID)
	id[20] ^= 1
	for _, bad := range []string{"x", string(id), all[3].ID[:40]} {
		var e *api.Error
		if err := c.nodes[0].Events(t.Context(), api.EventRequest{After: bad}, func(string) {}, nil); !errors.As(err, &e) || e.Code != "bad_event_id" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A client's stream of events outlives its node.
func TestClientEvents(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	cl := clientOf(t, c.nodes...)
	enough := errors.New("enough")
	seen := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 5 {
		c.submit(c.nodes[1], api.TaskSpec{Action: "do", Target: "it"})
	}
	err := cl.Events(ctx, "start", func(ev api.Event) error {
		if ev.Record.Verb != "submit" {
			return nil
		}
		if seen[ev.Record.TaskID]++; len(seen) == 5 {
			gone := c.nodes[0]
			c.nodes = c.nodes[1:]
			go func() { _ = gone.Close() }()
			for range 5 {
				c.submit(c.nodes[0], api.TaskSpec{Action: "do", Target: "it"})
			}
		}
		if len(seen) == 10 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatalf("%d events: %v", len(seen), err)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

// Where a stream begins is told at once: whoever has seen nothing yet goes on
// at another node without a gap.
func TestEventsBeginning(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+c.nodes[0].APIAddr()+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	id := ""
	for lines := bufio.NewScanner(resp.Body); id == "" && lines.Scan(); {
		id, _ = strings.CutPrefix(lines.Text(), "id: ")
		if strings.HasPrefix(id, ":") {
			id = ""
		}
	}
	want := c.submit(c.nodes[0], api.TaskSpec{Action: "do", Target: "it"})
	enough := errors.New("enough")
	err = clientOf(t, c.nodes[1], c.nodes[2]).Events(ctx, id, func(ev api.Event) error {
		if ev.Record.Verb == "submit" && ev.Record.TaskID == want {
			return enough
		}
		return nil
	})
	if id == "" || !errors.Is(err, enough) {
		t.Errorf("from %q: %v", id, err)
	}
}
