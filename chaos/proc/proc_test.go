package proc

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// fakeEnv turns this test binary into a stand-in for quorate; its value says
// how it behaves.
const fakeEnv = "PROC_TEST_FAKE"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(fakeEnv); mode {
	case "":
		os.Exit(m.Run())
	case "parent":
		fakeParent()
	default:
		fakeNode(mode)
	}
}

// fakeNode answers the two probes as a node of a formed cluster led by n1.
func fakeNode(mode string) {
	fs := flag.NewFlagSet("start", flag.ExitOnError)
	for _, name := range []string{"data-dir", "peer", "gossip", "join", "bootstrap-expect", "cluster", "shards"} {
		fs.String(name, "", "")
	}
	id, addr := fs.String("node-id", "", ""), fs.String("api", "", "")
	_ = fs.Parse(os.Args[2:])
	if mode == "refuse" {
		fmt.Fprintln(os.Stderr, "the data directory is held by another process")
		os.Exit(1)
	}
	cluster := "c1"
	if mode == "two-clusters" {
		cluster = "c-" + *id
	}
	shard := func(n uint32) api.ShardStatus { return api.ShardStatus{Shard: n, Leader: "n1", Term: 3} }
	http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/v1/cluster", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Cluster{NodeID: *id, ClusterID: cluster, Phase: "member",
			Shards: []api.ShardStatus{shard(0), shard(1)}})
	})
	http.HandleFunc("/v1/doctor", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Doctor{NodeID: *id, Checks: []api.DoctorCheck{
			{Name: "peers", Status: "ok", Detail: "all there"}, {Name: "coordination", Status: "fail", Detail: "no leader of shard 7"}}})
	})
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening on", *addr, "with QUORATE_TEST="+os.Getenv("QUORATE_TEST"))
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go http.Serve(l, nil)
	<-ctx.Done()
	if mode == "stubborn" {
		select {}
	}
	fmt.Println("drained")
}

// fakeParent starts a cluster of one, prints the child's process ID and waits
// to be killed.
func fakeParent() {
	c, err := Start(context.Background(), Config{Nodes: 1, Env: []string{fakeEnv + "=node"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.Dir(), c.Nodes()[0].Process().PID())
	select {}
}

func start(t *testing.T, mode string, cfg Config) (*Cluster, error) {
	t.Helper()
	cfg.Env = append(cfg.Env, fakeEnv+"="+mode)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	c, err := Start(t.Context(), cfg)
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

func TestLifeOfACluster(t *testing.T) {
	t.Setenv("QUORATE_TEST", "leaked")
	c, err := start(t, "node", Config{})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Nodes()) != DefaultNodes || len(c.Processes()) != DefaultNodes {
		t.Fatalf("%d nodes, %d processes: want %d", len(c.Nodes()), len(c.Processes()), DefaultNodes)
	}
	leaders, err := c.Leaders(t.Context())
	if err != nil || leaders[0] != "n1" || leaders[1] != "n1" {
		t.Fatalf("leaders %v, %v", leaders, err)
	}
	if log := string(LogTail(c.Node("n1").Log(), 1000)); !strings.Contains(log, "QUORATE_TEST=\n") {
		t.Errorf("the environment's QUORATE_ settings reached a node: %q", log)
	}

	n := c.Node("n2")
	first := n.Process()
	if err := n.Start(); err == nil {
		t.Error("a running node was started twice")
	}
	n.Kill()
	if n.Running() || first.ExitCode() != -1 {
		t.Errorf("killed: running %v, exit code %d", n.Running(), first.ExitCode())
	}
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.Process().PID() == first.PID() {
		t.Error("restarted with the same process ID")
	}
	if _, err := n.Process().CPU(); err != nil {
		t.Error(err)
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if log := string(LogTail(n.Log(), 1000)); !strings.HasSuffix(log, "drained\n") {
		t.Errorf("log of a stopped node ends %q", log)
	}
	procs := c.Processes()
	c.Close()
	for _, p := range procs {
		if p.Running() {
			t.Errorf("%s outlived Close", p.Name)
		}
	}
	if err := n.Start(); err == nil {
		t.Error("a node started after Close")
	}
}

func TestStartReportsWhyANodeEnded(t *testing.T) {
	_, err := start(t, "refuse", Config{})
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "held by another process") {
		t.Fatalf("got %v", err)
	}
}

func TestStartRefusesTwoClusters(t *testing.T) {
	_, err := start(t, "two-clusters", Config{ReadyWait: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "two clusters") {
		t.Fatalf("got %v", err)
	}
	// Who did not get where it should is asked why, and its log is quoted.
	for _, want := range []string{"n1's doctor: coordination fail: no leader of shard 7", "n3's doctor: coordination", "listening on"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "all there") {
		t.Errorf("what is well is told too: %v", err)
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	c, err := start(t, "stubborn", Config{Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx); err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Errorf("got %v", err)
	}
	if c.Nodes()[0].Running() {
		t.Error("still running")
	}
}

func TestNodeLimit(t *testing.T) {
	if _, err := New(Config{Nodes: MaxNodes + 1, Dir: t.TempDir()}); err == nil {
		t.Errorf("%d nodes were accepted", MaxNodes+1)
	}
}

func TestLogTail(t *testing.T) {
	path := t.TempDir() + "/log"
	if LogTail(path, 10) != nil {
		t.Error("a missing file has a tail")
	}
	if err := os.WriteFile(path, []byte("first\nsecond\nthird\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := string(LogTail(path, 10)); got != "third\n" {
		t.Errorf("tail %q", got)
	}
	if got := string(LogTail(path, 100)); got != "first\nsecond\nthird\n" {
		t.Errorf("tail %q", got)
	}
}

func TestFreePortsAreDistinct(t *testing.T) {
	ports, err := freePorts(30)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < portMin || p >= portMax {
			t.Errorf("port %d", p)
		}
		seen[p] = true
	}
}
