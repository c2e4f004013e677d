package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/zap"
)

// etcdNote: a static cluster of three with default settings, as its clustering guide has it; loads as its own benchmark
// tool makes them, many clients over some connections, sent to the leader.
const etcdNote = "3.7 server processes, default settings; put of a 128-byte value, 512 clients over 32 connections to all members, through its Go client; set against one shard"

const (
	etcdMembers = 3
	etcdClients = 512
	etcdConns   = 32
)

// etcdNode is one server: etcd's own main function.
func etcdNode(args []string) error {
	dieWithInput()
	etcdmain.Main(append([]string{"etcd"}, args...))
	return nil
}

// etcdPuts measures puts with many clients, then one at a time.
func etcdPuts(ctx context.Context, o Options) (_ []Value, err error) {
	addrs, group, err := startEtcd(ctx)
	if err != nil {
		return nil, err
	}
	defer group.close()
	conns := make([]*clientv3.Client, etcdConns)
	for i := range conns {
		if conns[i], err = clientv3.New(clientv3.Config{Endpoints: []string{addrs[i%len(addrs)]}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}); err != nil {
			return nil, err
		}
		defer conns[i].Close()
	}
	if err := awaitEtcd(ctx, conns[0]); err != nil {
		return nil, err
	}
	value := string(bytes.Repeat([]byte("x"), 128))
	put := func(ctx context.Context, client, n int) error {
		_, err := conns[client%len(conns)].Put(ctx, fmt.Sprintf("k%03d-%06d", client, n%100_000), value)
		return err
	}
	many, _, err := closedLoop(ctx, o, etcdClients, put)
	if err != nil {
		return nil, err
	}
	_, one, err := closedLoop(ctx, o, 1, put)
	if err != nil {
		return nil, err
	}
	return []Value{
		{Metric: metricOneShard, Unit: proposalsUnit, Value: many},
		{Metric: metricOneAtATime, Unit: "ms", Value: float64(one.ValueAtQuantile(50)) / 1000, Lower: true},
	}, nil
}

func startEtcd(ctx context.Context) (urls []string, _ *processes, err error) {
	addrs, group, err := newProcesses(2 * etcdMembers)
	if err != nil {
		return nil, nil, err
	}
	var initial []string
	for i := range etcdMembers {
		urls = append(urls, "http://"+addrs[2*i])
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, addrs[2*i+1]))
	}
	for i := range etcdMembers {
		peer := "http://" + addrs[2*i+1]
		err := group.start(fmt.Sprintf("etcd-%d", i), "etcd-node", "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(group.dir, fmt.Sprint(i)),
			"--listen-client-urls", urls[i], "--advertise-client-urls", urls[i], "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error")
		if err != nil {
			group.close()
			return nil, nil, err
		}
	}
	return urls, group, ctx.Err()
}

func awaitEtcd(ctx context.Context, c *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 2*time.Second)
		_, err := c.Put(try, "ready", "yes")
		stop()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // it gives no event for having a leader
	}
}

// closedLoop runs clients that do one thing after the other, and counts what ends within the measured time.
func closedLoop(ctx context.Context, o Options, clients int, do func(ctx context.Context, client, n int) error) (perSecond float64, _ *hdrhistogram.Histogram, _ error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var counting atomic.Bool
	var count atomic.Int64
	var failed atomic.Pointer[error]
	var mu sync.Mutex
	hist := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				err := do(ctx, c, n)
				took := time.Since(began)
				if err != nil {
					if ctx.Err() == nil {
						failed.CompareAndSwap(nil, &err)
						stop()
					}
					return
				}
				if counting.Load() {
					count.Add(1)
					mu.Lock()
					_ = hist.RecordValue(min(took, time.Minute).Microseconds()) // within its bounds
					mu.Unlock()
				}
			}
		})
	}
	wait(ctx, o.WarmUp)
	began := time.Now()
	counting.Store(true)
	wait(ctx, o.Duration)
	counting.Store(false)
	seconds := time.Since(began).Seconds()
	stop()
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, nil, *err
	}
	return float64(count.Load()) / seconds, hist, nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
