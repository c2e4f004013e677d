package node

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log that may be read while it is written.
type lines struct {
	sync.Mutex
	b bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.Lock()
	defer l.Unlock()
	return l.b.String()
}

// TestHeadlessIsExplained: a node that knows no leader for a while says once
// what its replica knows about it, and when there is one again.
func TestHeadlessIsExplained(t *testing.T) {
	var h headless
	led := map[uint32]uint64{1: 7}
	leader := func(s uint32) uint64 { return led[s] }
	began := time.Now()
	want := func(after time.Duration, due, back int) {
		t.Helper()
		if d, b := h.look(began.Add(after), 2, leader); len(d) != due || len(b) != back {
			t.Errorf("after %v: due %v, back %v", after, d, b)
		}
	}
	want(0, 0, 0)
	want(headlessAfter-1, 0, 0)
	want(headlessAfter, 1, 0)
	want(2*headlessAfter, 0, 0) // said once
	led[0] = 7
	want(2*headlessAfter, 0, 1)
	led[0] = 0
	want(3*headlessAfter, 0, 0)
	led[0] = 7 // soon enough to say nothing
	want(3*headlessAfter+1, 0, 0)

	t.Parallel()
	var log lines
	c := startCluster(t, 3, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	last := c.nodes[2].core.Load()
	for _, n := range c.nodes[:2] {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	c.nodes = c.nodes[2:]
	c.eventually("why", func() error {
		if last.Ready() == nil {
			return errNoLeader(0)
		}
		return nil
	})
	why := last.whyHeadless(1)
	for _, part := range []string{"term ", "vote ", "heard from: ", "disk stalled false", "n1 down since", "n2 down since", "requests for votes held: "} {
		if !strings.Contains(why, part) {
			t.Errorf("%q is missing in %q", part, why)
		}
	}
	c.eventually("said by itself", func() error {
		if !strings.Contains(log.String(), "no leader: raft State") {
			return errNoLeader(0)
		}
		return nil
	})
	t.Log(why)
}
