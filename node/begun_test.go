package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// Leaders move again and again while agents at every node hold, begin and end
// tasks: each is begun with once, at the first attempt. A new leader gives
// nothing from before its term until every node has told it what its agents
// hold.
func TestBegunOnceWhileLeadersMove(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	const tasks, moves = 600, 6
	b := newBegun(tasks)
	for i := range c.nodes {
		working(t, clientOf(t, c.nodes[i]), client.WorkConfig{Manifest: manifest(fmt.Sprint("w", i), 0, "do:it"), Handler: b.handle, Concurrency: 4, Credit: 24})
	}
	ids := c.submitMany(c.nodes[0], tasks, api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 60})
	for i := range moves {
		b.reach(t, tasks*(i+1)/(moves+2)) // moved while tasks are held
		c.handOn(uint32(1 + i%2))
	}
	b.reach(t, tasks)
	for _, id := range ids {
		var task api.Task
		c.eventually("its end is known", func() (err error) {
			if task, err = c.nodes[0].Task(t.Context(), id, time.Second); err == nil && task.State != "completed" {
				err = errors.New(task.State)
			}
			return err
		})
		if n := b.times(id); n != 1 || task.Attempts != 1 {
			t.Errorf("%s: begun with %d times, %d attempts", id, n, task.Attempts)
		}
	}
	c.equalLedgers()
}

// begun counts how often tasks were begun with.
type begun struct {
	mu    sync.Mutex
	count map[string]int
	more  *sync.Cond
}

func newBegun(tasks int) *begun {
	b := &begun{count: make(map[string]int, tasks)}
	b.more = sync.NewCond(&b.mu)
	return b
}

func (b *begun) handle(_ context.Context, task *client.Task) (any, error) {
	b.mu.Lock()
	b.count[task.TaskID]++
	b.more.Broadcast()
	b.mu.Unlock()
	time.Sleep(10 * time.Millisecond) // the work
	return "done", nil
}

// reach waits until so many different tasks were begun with.
func (b *begun) reach(t *testing.T, tasks int) {
	t.Helper()
	late := time.AfterFunc(90*time.Second, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.count = nil
		b.more.Broadcast()
	})
	defer late.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.count != nil && len(b.count) < tasks {
		b.more.Wait()
	}
	if b.count == nil {
		b.count = map[string]int{}
		t.Fatalf("%d tasks are not begun with", tasks)
	}
}

func (b *begun) times(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[id]
}
