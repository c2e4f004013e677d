package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// echo leads one shard and answers at once, or with an error.
type echo struct{ err error }

func (echo) Leads() []uint32            { return []uint32{0} }
func (echo) Transfer(uint32, int) error { return nil }
func (e echo) Pipeline(uint32) (func([][]byte, func(error)), func()) {
	return func(commands [][]byte, done func(error)) {
		for range commands {
			done(e.err)
		}
	}, func() {}
}

func TestLoadSpecLimits(t *testing.T) {
	at := LoadSpec{Clients: maxClients, Depth: maxDepth, Burst: maxDepth, PayloadBytes: maxPayload, WarmUp: maxDuration, Duration: maxDuration}
	if err := at.validate(); err != nil {
		t.Errorf("at the limits: %v", err)
	}
	for name, change := range map[string]func(*LoadSpec){
		"clients": func(s *LoadSpec) { s.Clients++ }, "no clients": func(s *LoadSpec) { s.Clients = 0 }, "depth": func(s *LoadSpec) { s.Depth++ },
		"burst": func(s *LoadSpec) { s.Burst++ }, "payload": func(s *LoadSpec) { s.PayloadBytes++ }, "warm-up": func(s *LoadSpec) { s.WarmUp++ },
		"duration": func(s *LoadSpec) { s.Duration++ }, "no duration": func(s *LoadSpec) { s.Duration = 0 },
	} {
		s := at
		if change(&s); s.validate() == nil {
			t.Errorf("%s out of range passes", name)
		}
	}
}

// TestOrders: a process obeys line by line, ends with its input, and reports what failed.
func TestOrders(t *testing.T) {
	for _, broken := range []error{nil, errors.New("broken")} {
		in, orders := io.Pipe()
		answers, out := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- ServeProposer(t.Context(), in, out, 0, 3, echo{broken}) }()
		lines := bufio.NewScanner(answers)
		ask := func(o order) (a answer) {
			b, _ := json.Marshal(o)
			if _, err := orders.Write(append(b, '\n')); err != nil || !lines.Scan() {
				t.Fatal("no answer: ", err, lines.Err())
			}
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			return a
		}
		if a := ask(order{Do: "leads"}); len(a.Leads) != 1 {
			t.Errorf("leads %+v", a)
		}
		if a := ask(order{Do: "dance"}); a.Error == "" {
			t.Error("an unknown order is obeyed")
		}
		spec := LoadSpec{Clients: 2, Depth: 4, Burst: 2, PayloadBytes: 8, Duration: 20 * time.Millisecond}
		a := ask(order{Do: "load", Load: &spec})
		if broken == nil && (a.Error != "" || a.Load == nil || a.Load.Acked == 0 || a.Load.Failed > 0) || broken != nil && a.Error == "" {
			t.Errorf("load with error %v: %+v", broken, a)
		}
		_ = orders.Close()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	}
}

// TestRaftstoreForReal measures three real processes for a moment, and asserts that the figures are there.
func TestRaftstoreForReal(t *testing.T) {
	binary := executable(t)
	rows, err := Raftstore(t.Context(), RaftstoreConfig{Command: []string{binary, "bench", "raftstore-node"}, Shards: []int{1, 4}, InFlight: 96,
		Duration: 300 * time.Millisecond, WarmUp: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Saturated.PerSecond <= 0 || r.OneAtATime.PerSecond <= 0 || r.OneAtATime.Latency.P50Millis <= 0 || r.Saturated.CoreMicro <= 0 {
			t.Errorf("row %+v", r)
		}
	}
}

// TestFollowUps: each pair of proposals counts once, and nothing stays under way.
func TestFollowUps(t *testing.T) {
	spec := &LoadSpec{Clients: 2, Depth: 8, Burst: 4, PayloadBytes: 8, FollowUpBytes: 4, Duration: 30 * time.Millisecond}
	var c counting
	r, err := generate(t.Context(), spec, &c)
	if err != nil || r.Acked == 0 || r.Failed != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if first, second := c.sizes[8].Load(), c.sizes[4].Load(); r.Acked > second || second > first {
		t.Errorf("%d counted, %d proposed, %d followed up", r.Acked, first, second)
	}
}

// counting answers at once and counts proposals by size.
type counting struct{ sizes [9]atomic.Int64 }

func (*counting) Leads() []uint32            { return []uint32{0, 1} }
func (*counting) Transfer(uint32, int) error { return nil }
func (c *counting) Pipeline(uint32) (func([][]byte, func(error)), func()) {
	return func(commands [][]byte, done func(error)) {
		for _, command := range commands {
			c.sizes[len(command)].Add(1)
			done(nil)
		}
	}, func() {}
}
