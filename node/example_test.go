package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// dataDir is a directory for an example; a program has one that stays.
func dataDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "quorate-example-")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }
}

// One node inside a program, with an agent and a task, and no connection
// between them.
func ExampleOpen() {
	dir, remove := dataDir()
	defer remove()
	cfg := node.Edge()
	cfg.DataDir, cfg.BootstrapExpect = dir, 1
	cfg.APIAddr, cfg.PeerAddr, cfg.GossipAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Logger = slog.New(slog.DiscardHandler)
	n, err := node.Open(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := n.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}

	m := api.Manifest{AgentID: "counter", Capabilities: []api.Capability{{Action: "count", Target: "bytes"}}}
	worked := make(chan error, 1)
	go func() {
		worked <- n.Work(ctx, m, func(_ context.Context, t *client.Task) (any, error) {
			return map[string]int{"bytes": len(t.Input)}, nil
		})
	}()
	v, err := n.Submit(ctx, []api.TaskSpec{{Action: "count", Target: "bytes", Input: json.RawMessage(`"four"`)}}, "me")
	if err != nil {
		log.Fatal(err)
	}
	task, err := n.Task(ctx, v[0].TaskID, time.Minute)
	fmt.Println(task.State, string(task.Result), err)
	stop()
	fmt.Println(<-worked)
	// Output:
	// completed {"bytes":6} <nil>
	// <nil>
}

// Three nodes in one process: what one is told, all know, and an agent at any
// of them performs it.
func ExampleOpen_cluster() {
	dir, remove := dataDir()
	defer remove()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var nodes []*node.Node
	var join []string
	for i := range 3 {
		n, err := node.Open(node.Config{DataDir: filepath.Join(dir, fmt.Sprint(i)), NodeID: fmt.Sprint("node", i), Join: join, Shards: 1,
			APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			log.Fatal(err)
		}
		defer n.Close()
		nodes, join = append(nodes, n), append(join, n.GossipAddr())
	}
	for _, n := range nodes {
		if err := n.AwaitReady(ctx); err != nil {
			log.Fatal(err)
		}
	}

	m := api.Manifest{AgentID: "greeter", Capabilities: []api.Capability{{Action: "greet", Target: "person"}}}
	go nodes[2].Work(ctx, m, func(_ context.Context, t *client.Task) (any, error) {
		var who string
		err := json.Unmarshal(t.Input, &who)
		return "hello " + who, err
	})
	v, err := nodes[0].Submit(ctx, []api.TaskSpec{{Action: "greet", Target: "person", Input: json.RawMessage(`"Ada"`)}}, "me")
	if err != nil {
		log.Fatal(err)
	}
	task, err := nodes[1].Task(ctx, v[0].TaskID, time.Minute)
	fmt.Println(task.State, string(task.Result), err)
	// Output: completed "hello Ada" <nil>
}
