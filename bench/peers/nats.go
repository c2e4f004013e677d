package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/quorate/quorate/bench"
)

// natsNote: the documentation recommends asynchronous publishing with a bound on what is pending, a pull consumer with
// explicit acknowledgements shared by the workers, and double acknowledgement where a completion must be known to be kept.
const natsNote = "JetStream 2.15, three servers, work queue R3 on files, durable pull consumer; asynchronous publish (1,024 pending a connection), double acknowledgements (1,024 at once)"

const (
	natsServers    = 3
	natsPending    = 1024
	natsWorkers    = 2    // a server
	natsPull       = 512  // messages a worker asks ahead
	natsAcks       = 1024 // double acknowledgements under way, over all workers
	natsAckPending = 8192
)

// natsNode is one server, configured by a file.
func natsNode(args []string) error {
	dieWithInput()
	if len(args) != 1 {
		return fmt.Errorf("want a configuration file")
	}
	opts, err := server.ProcessConfigFile(args[0])
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return err
	}
	s.WaitForShutdown()
	return nil
}

func natsLifecycles(ctx context.Context, o Options, sync string) ([]Value, error) {
	urls, group, err := startNATS(sync)
	if err != nil {
		return nil, err
	}
	defer group.close()
	n := &natsQueue{acks: make(chan struct{}, natsAcks)}
	defer n.close()
	for _, u := range urls {
		if err := n.connect(ctx, u); err != nil {
			return nil, err
		}
	}
	return measureQueues(ctx, o, func(run int) (queue, error) { return n, n.newStream(ctx, run) })
}

func startNATS(sync string) (urls []string, _ *processes, err error) {
	addrs, group, err := newProcesses(2 * natsServers)
	if err != nil {
		return nil, nil, err
	}
	var routes []string
	for i := range natsServers {
		routes = append(routes, fmt.Sprintf("%q", "nats://"+addrs[2*i+1]))
	}
	interval := ""
	if sync != "" {
		interval = "sync_interval: " + sync
	}
	for i := range natsServers {
		name := fmt.Sprintf("n%d", i+1)
		conf := filepath.Join(group.dir, name+".conf")
		text := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream {\n store_dir: %q\n %s\n}\ncluster {\n name: bench\n listen: %q\n routes: [%s]\n}\n",
			name, addrs[2*i], filepath.Join(group.dir, name), interval, addrs[2*i+1], strings.Join(routes, ", "))
		if err = os.WriteFile(conf, []byte(text), 0o600); err == nil {
			err = group.start(name, "nats-node", conf)
		}
		if err != nil {
			group.close()
			return nil, nil, err
		}
		urls = append(urls, "nats://"+addrs[2*i])
	}
	return urls, group, nil
}

// natsQueue is a connection to each server for publishing and one for working.
type natsQueue struct {
	publishers, workers []*nats.Conn
	stream              string
	acks                chan struct{}
}

// readyWait bounds the wait for servers to be up and to have a leader.
const readyWait = 60 * time.Second

func (n *natsQueue) connect(ctx context.Context, url string) error {
	deadline := time.Now().Add(readyWait)
	for {
		c, err := nats.Connect(url)
		if err == nil {
			w, err := nats.Connect(url)
			n.publishers, n.workers = append(n.publishers, c), append(n.workers, w)
			return err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the process gives no event for listening
	}
}

func (n *natsQueue) close() {
	for _, c := range append(n.publishers, n.workers...) {
		if c != nil {
			c.Close()
		}
	}
}

// newStream replaces the stream of the run before.
func (n *natsQueue) newStream(ctx context.Context, run int) error {
	js, err := jetstream.New(n.publishers[0])
	if err != nil {
		return err
	}
	if n.stream != "" {
		if err := js.DeleteStream(ctx, n.stream); err != nil {
			return err
		}
	}
	n.stream = fmt.Sprintf("TASKS%d", run)
	deadline := time.Now().Add(readyWait)
	for {
		s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: n.stream, Subjects: []string{n.subject()}, Replicas: natsServers,
			Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage})
		if err == nil {
			_, err = s.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: natsAckPending})
		}
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the servers elect a leader first, and tell nobody
	}
}

func (n *natsQueue) subject() string { return "tasks." + n.stream }

// submit publishes from every connection; the acknowledgements are awaited in order.
func (n *natsQueue) submit(ctx context.Context, m *bench.Meter) error {
	errs := make(chan error, len(n.publishers))
	for _, c := range n.publishers {
		go func() { errs <- n.publish(ctx, m, c) }()
	}
	var first error
	for range n.publishers {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (n *natsQueue) publish(ctx context.Context, m *bench.Meter, c *nats.Conn) error {
	js, err := jetstream.New(c, jetstream.WithPublishAsyncMaxPending(natsPending))
	if err != nil {
		return err
	}
	type asked struct {
		ack jetstream.PubAckFuture
		due time.Duration
	}
	pending := make(chan asked, natsPending)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		var one [1]time.Duration
		for a := range pending {
			select {
			case <-a.ack.Ok():
				one[0] = a.due
				m.Submitted(one[:])
			case err := <-a.ack.Err():
				select {
				case failed <- err:
				default:
				}
			}
		}
	})
	defer wg.Wait()
	defer close(pending)
	for {
		seq, due, ok := m.Next(ctx)
		if !ok {
			return nil
		}
		for i, d := range due {
			ack, err := js.PublishAsync(n.subject(), encodeTask(seq+int64(i), d), jetstream.WithStallWait(proposeTimeout))
			if err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			pending <- asked{ack, d}
		}
		select {
		case err := <-failed:
			return fmt.Errorf("publish: %w", err)
		default:
		}
	}
}

// work pulls and acknowledges until ctx ends.
func (n *natsQueue) work(ctx context.Context, m *bench.Meter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, c := range n.workers {
		for range natsWorkers {
			wg.Go(func() {
				if err := n.pull(ctx, m, c); err != nil && ctx.Err() == nil {
					cancel(err)
				}
			})
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (n *natsQueue) pull(ctx context.Context, m *bench.Meter, c *nats.Conn) error {
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, n.stream, "workers")
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(natsPull))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	var acks sync.WaitGroup
	defer acks.Wait()
	for {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		seq, due, err := decodeTask(msg.Data())
		if err != nil {
			return err
		}
		n.acks <- struct{}{}
		acks.Go(func() {
			defer func() { <-n.acks }()
			if err := msg.DoubleAck(ctx); err == nil && m.First(seq) {
				m.Completed([]time.Duration{due})
			}
		})
	}
}
