package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/quorate/quorate/bench"
)

// redisNote: its documentation recommends appendfsync always where nothing may be lost, consumer groups for sharing
// work, and pipelining. Its replication is asynchronous, so that one server is set against three.
const redisNote = "streams on one server (no quorum: its replication is asynchronous), appendfsync always; XADD, XREADGROUP, XACK and XDEL in pipelines of 256"

const (
	redisProgram    = "redis-server"
	redisSubmitters = 12
	redisWorkers    = 6
	redisStream     = "tasks"
	redisGroup      = "workers"
)

func redisMissing() error {
	if _, err := exec.LookPath(redisProgram); err != nil {
		return fmt.Errorf("%s: %w", redisProgram, errNotInstalled)
	}
	return nil
}

func redisLifecycles(ctx context.Context, o Options) ([]Value, error) {
	addrs, group, err := newProcesses(1)
	if err != nil {
		return nil, err
	}
	defer group.close()
	host, port, err := net.SplitHostPort(addrs[0])
	if err != nil {
		return nil, err
	}
	err = group.start("redis", "program", redisProgram, "--bind", host, "--port", port, "--dir", group.dir, "--appendonly", "yes", "--appendfsync", "always", "--save", "")
	if err != nil {
		return nil, err
	}
	c := redis.NewClient(&redis.Options{Addr: addrs[0], PoolSize: redisSubmitters + redisWorkers + 2, ReadTimeout: time.Minute})
	defer c.Close()
	deadline := time.Now().Add(readyWait)
	for err = c.Ping(ctx).Err(); err != nil && ctx.Err() == nil && time.Now().Before(deadline); err = c.Ping(ctx).Err() {
		time.Sleep(20 * time.Millisecond) // the process gives no event for listening
	}
	if err != nil {
		return nil, err
	}
	return measureQueues(ctx, o, func(int) (queue, error) {
		if err := c.Del(ctx, redisStream).Err(); err != nil {
			return nil, err
		}
		return redisQueue{c}, c.XGroupCreateMkStream(ctx, redisStream, redisGroup, "0").Err()
	})
}

type redisQueue struct{ c *redis.Client }

// together runs n of do and gives the first error.
func together(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := do(ctx, i); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (q redisQueue) submit(ctx context.Context, m *bench.Meter) error {
	return together(ctx, redisSubmitters, func(ctx context.Context, _ int) error {
		for {
			seq, due, ok := m.Next(ctx)
			if !ok {
				return nil
			}
			p := q.c.Pipeline()
			for i, d := range due {
				p.XAdd(ctx, &redis.XAddArgs{Stream: redisStream, Values: []any{"t", encodeTask(seq+int64(i), d)}})
			}
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
			m.Submitted(due)
		}
	})
}

func (q redisQueue) work(ctx context.Context, m *bench.Meter) error {
	return together(ctx, redisWorkers, func(ctx context.Context, i int) error {
		for ctx.Err() == nil {
			read, err := q.c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: redisGroup, Consumer: fmt.Sprint(i), Streams: []string{redisStream, ">"},
				Count: lifecycleBatch, Block: 100 * time.Millisecond}).Result()
			if err == redis.Nil {
				continue
			}
			if err != nil {
				return err
			}
			if err := q.complete(ctx, m, read[0].Messages); err != nil {
				return err
			}
		}
		return nil
	})
}

func (q redisQueue) complete(ctx context.Context, m *bench.Meter, msgs []redis.XMessage) error {
	ids := make([]string, len(msgs))
	var dues []time.Duration
	for i, msg := range msgs {
		ids[i] = msg.ID
		text, _ := msg.Values["t"].(string)
		seq, due, err := decodeTask([]byte(text))
		if err != nil {
			return err
		}
		if m.First(seq) {
			dues = append(dues, due)
		}
	}
	p := q.c.Pipeline()
	p.XAck(ctx, redisStream, redisGroup, ids...)
	p.XDel(ctx, redisStream, ids...)
	if _, err := p.Exec(ctx); err != nil {
		return err
	}
	m.Completed(dues)
	return nil
}
