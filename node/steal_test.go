package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// An idle agent takes what another has and did not begin with, at the same
// node and across nodes; the theft is in the audit log with both loads, and
// why, the state view, status and metrics tell of it.
func TestIdleSteals(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	for i, thief := range []*Node{c.nodes[0], c.nodes[1]} {
		t.Run(fmt.Sprint("at node ", i+1), func(t *testing.T) { c.idleSteals(t, thief, fmt.Sprint("do:it", i)) })
	}
	c.equalLedgers()
}

// An agent that may have one task at a time steals one.
func TestStealsUpToItsLimit(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	begun, release := make(chan struct{}, 10), make(chan struct{})
	defer close(release)
	hang := func(context.Context, *client.Task) (any, error) {
		<-release
		return nil, nil
	}
	working(t, clientOf(t, n), client.WorkConfig{Manifest: manifest("busy", 0, "do:it"), Handler: hang, Concurrency: 1, Credit: 4})
	for k := range 4 {
		c.submit(n, api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint(k)})
	}
	c.eventually("all are held", func() error {
		if k := len(c.heldBy("busy")); k != 4 {
			return fmt.Errorf("%d", k)
		}
		return nil
	})
	working(t, clientOf(t, n), client.WorkConfig{Manifest: manifest("thief", 1, "do:it"), Concurrency: 1, Credit: 1,
		Handler: func(ctx context.Context, task *client.Task) (any, error) {
			begun <- struct{}{}
			return hang(ctx, task)
		}})
	select {
	case <-begun:
	case <-time.After(30 * time.Second):
		t.Fatal("it begins with nothing")
	}
	if list := c.stolenBy("thief"); len(list) != 1 {
		t.Errorf("%d were stolen", len(list))
	}
}

func (c *testCluster) idleSteals(t *testing.T, at *Node, capability string) {
	const tasks = 9
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	defer free()
	handler := func(ctx context.Context, task *client.Task) (any, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return task.Epoch, context.Cause(ctx)
	}
	action, target, _ := api.SplitCapability(capability)
	busy, thief := "busy-"+target, "thief-"+target
	working(t, clientOf(t, c.nodes[0]), client.WorkConfig{Manifest: manifest(busy, 0, capability), Handler: handler, Concurrency: 1, Credit: tasks})
	var ids []string
	for k := range tasks {
		ids = append(ids, c.submit(c.nodes[2], api.TaskSpec{Action: action, Target: target, IdempotencyKey: fmt.Sprint(capability, k)}))
	}
	hold := func(agent string, least int) {
		c.eventually(agent+" holds its share", func() error {
			if n := len(c.heldBy(agent)); n < least {
				return fmt.Errorf("%d tasks", n)
			}
			return nil
		})
	}
	hold(busy, tasks)
	working(t, clientOf(t, at), client.WorkConfig{Manifest: manifest(thief, 0, capability), Handler: handler, Concurrency: 1, Credit: 3})
	stolen := c.stolenBy(thief)
	for _, task := range stolen {
		if task.L5 != "STOLEN" && task.State == "assigned" || task.StolenFrom != busy {
			t.Errorf("%+v", task)
		}
		if w, err := c.nodes[1].Why(t.Context(), task.TaskID); err != nil || !strings.HasPrefix(w.Summary, "stolen by "+thief+" (load ") || !strings.Contains(w.Summary, "from "+busy+" (load ") {
			t.Errorf("%v %+v", err, w)
		}
	}
	if len(c.heldBy(busy)) == 0 {
		t.Error("everything was stolen: what an agent has begun with is its own")
	}
	free()
	for _, id := range ids {
		task, err := c.nodes[0].Task(t.Context(), id, 20*time.Second)
		if err != nil || task.State != "completed" || task.Attempts != 1 {
			t.Errorf("%v %+v", err, task)
		}
	}
	for i := range stolen {
		c.recorded(&stolen[i], busy, thief)
	}
	v, err := c.nodes[2].Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range v.Steals.Agents {
		if a.AgentID == thief && a.Stole >= 1 {
			return
		}
	}
	t.Errorf("status tells of %+v", v.Steals)
}

// recorded checks what the audit log has of a stolen task.
func (c *testCluster) recorded(s *api.Task, busy, thief string) {
	t := c.t
	t.Helper()
	var page api.RecordPage
	c.eventually("its end is recorded at this node too", func() (err error) {
		page, err = c.nodes[1].Audit(t.Context(), api.AuditFilter{Shard: -1, TaskID: s.TaskID, Limit: 100})
		if n := len(page.Records); err == nil && (n == 0 || page.Records[n-1].Verb != "complete") {
			err = fmt.Errorf("%d records", n)
		}
		return err
	})
	var verbs []string
	for _, r := range page.Records {
		if verbs = append(verbs, r.Verb); r.Verb == "stolen" && r.Epoch == s.Epoch && (r.AgentID != thief || r.StolenFrom != busy || r.StolenFromLoad <= 800 || r.StolenToLoad >= 800) {
			t.Errorf("%+v", r)
		}
		if r.Verb == "complete" && r.AgentID == thief && r.StolenFrom != busy {
			t.Errorf("%+v", r)
		}
	}
	if got := strings.Join(verbs, " "); !strings.HasPrefix(got, "submit stolen ") || strings.Count(got, "complete") != 1 { // the busy one may steal it back
		t.Errorf("records of a stolen task: %s", got)
	}
}

// stolenBy waits until an agent holds stolen tasks, and lists them.
func (c *testCluster) stolenBy(thief string) (stolen []api.Task) {
	c.t.Helper()
	c.eventually(thief+" steals", func() error {
		stolen = stolen[:0]
		for _, task := range c.heldBy(thief) {
			if task.StolenFrom != "" {
				stolen = append(stolen, task)
			}
		}
		if len(stolen) == 0 {
			return errors.New("nothing yet")
		}
		return nil
	})
	return stolen
}

// heldBy lists the tasks an agent holds.
func (c *testCluster) heldBy(agent string) (out []api.Task) {
	c.t.Helper()
	page, err := c.nodes[0].Tasks(c.t.Context(), api.TaskFilter{States: []string{"assigned", "running"}, Limit: 1000})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, task := range page.Tasks {
		if task.AgentID == agent {
			out = append(out, task)
		}
	}
	return out
}
