package form

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// town is nodes in one process that talk over loopback TCP and see each other
// as soon as they are there.
type town struct {
	t  *testing.T
	mu struct {
		sync.Mutex
		up map[string]*resident // by node ID
	}
}

type resident struct {
	*Former
	tr      *peer.Transport
	dir     string
	changed chan struct{}
}

func newTown(t *testing.T) *town {
	tw := &town{t: t}
	tw.mu.up = map[string]*resident{}
	return tw
}

func (tw *town) candidates() []Candidate {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	var out []Candidate
	for _, r := range tw.mu.up {
		id := r.Identity()
		out = append(out, Candidate{RaftID: id.RaftID, NodeID: id.NodeID, PeerAddr: r.tr.Addr().String(), ClusterID: id.ClusterID})
	}
	return out
}

// start opens the identity in dir and makes the node known.
func (tw *town) start(dir, nodeID string, expect int) *resident {
	tw.t.Helper()
	id, err := Open(files.FS{}, dir, nodeID, "town")
	if err != nil {
		tw.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	tr, err := peer.Listen(peer.Config{Addr: "127.0.0.1:0", Logger: log,
		Self: peer.Identity{Cluster: id.Cluster, ClusterID: id.ClusterID, RaftID: id.RaftID, NodeID: id.NodeID, Incarnation: id.Incarnation}})
	if err != nil {
		tw.t.Fatal(err)
	}
	r := &resident{tr: tr, dir: dir, changed: make(chan struct{}, 1)}
	r.Former, err = New(Config{Dir: dir, Identity: id, PeerAddr: tr.Addr().String(), Expect: expect, Shards: 5, Candidates: tw.candidates,
		Changed: r.changed, Call: tr.CallForm, Logger: log, Round: 10 * time.Millisecond})
	if err != nil {
		tw.t.Fatal(err)
	}
	tr.SetForm(r.Answer)
	tr.Start()
	tw.t.Cleanup(func() { _ = tr.Close() })
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.mu.up[nodeID] = r
	return r
}

type result struct {
	Outcome
	err error
}

// run runs them all at once and returns what came of it.
func (tw *town) run(rs ...*resident) []result {
	ctx, cancel := context.WithTimeout(tw.t.Context(), 20*time.Second)
	defer cancel()
	out := make([]result, len(rs))
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Go(func() { out[i].Outcome, out[i].err = r.Run(ctx) })
	}
	wg.Wait()
	return out
}

func TestFourNodesFormOneClusterOfThree(t *testing.T) {
	tw := newTown(t)
	var rs []*resident
	for i := range 4 {
		rs = append(rs, tw.start(t.TempDir(), fmt.Sprint("n", i), 3))
	}
	joined := 0
	res := tw.run(rs...)
	for i, r := range res {
		if r.err != nil || r.ClusterID != res[0].ClusterID || r.ClusterID.IsZero() || len(r.Voters) != 3 || r.Shards != 5 {
			t.Fatalf("%s: %+v", rs[i].Identity().NodeID, r)
		}
		if r.Joined {
			joined++
		}
		if w := rs[i].Waiting(); w != "" {
			t.Errorf("formed, but waits for %q", w)
		}
		disk, err := Load(files.FS{}, rs[i].dir)
		if err != nil || disk.ClusterID != r.ClusterID || disk.Joined != r.Joined {
			t.Errorf("on disk %+v, %v", disk, err)
		}
	}
	if joined != 1 {
		t.Fatalf("%d joined, want 1", joined)
	}
	// One that comes later joins, one that restarts is what it was.
	late := tw.run(tw.start(t.TempDir(), "late", 3), tw.start(t.TempDir(), "join-only", 0))
	for _, r := range late {
		if r.err != nil || !r.Joined || r.ClusterID != res[0].ClusterID {
			t.Fatalf("%+v", r)
		}
	}
	_ = rs[0].tr.Close()
	again := tw.run(tw.start(rs[0].dir, "n0", 3))[0]
	if again.err != nil || again.ClusterID != res[0].ClusterID || again.Joined != res[0].Joined {
		t.Fatalf("%+v", again)
	}
}

func TestOneFormsAlone(t *testing.T) {
	tw := newTown(t)
	r := tw.run(tw.start(t.TempDir(), "n1", 1))[0]
	if r.err != nil || r.Joined || len(r.Voters) != 1 {
		t.Fatalf("%+v", r)
	}
}

// A founder that crashed after its promise asks when it is back.
func TestPromisedFounderRecovers(t *testing.T) {
	for _, how := range []string{"committed", "aborted"} {
		t.Run(how, func(t *testing.T) {
			tw := newTown(t)
			a := tw.start(t.TempDir(), "a", 2)
			b := tw.start(t.TempDir(), "b", 2)
			coord, member := a, b
			if b.Identity().RaftID < a.Identity().RaftID {
				coord, member = b, a
			}
			// The coordinator's bootstrap by hand, up to the promise.
			cid, mid := coord.Identity(), member.Identity()
			p := Promise{ClusterID: ID{9}, Coordinator: cid.RaftID, Shards: 5, Voters: []Voter{{cid.RaftID, cid.NodeID, coord.tr.Addr().String()}, {mid.RaftID, mid.NodeID, member.tr.Addr().String()}}}
			m := coord.mu.core.message(prepareKind, mid.RaftID)
			m.ClusterID, m.Coordinator, m.Shards, m.Voters = p.ClusterID, p.Coordinator, p.Shards, p.Voters
			if r, err := decodeMessage(member.Answer(m.encode())); err != nil || r.Kind != promisedKind {
				t.Fatalf("%+v, %v", r, err)
			}
			_ = member.tr.Close() // crashed; the promise is on its disk
			if how == "committed" {
				coord.mu.core.ballot = &ballot{promise: p}
				coord.mu.core.commit()
			}
			res := tw.run(coord, tw.start(member.dir, mid.NodeID, 2))
			for _, r := range res {
				if r.err != nil || r.Joined || len(r.Voters) != 2 || (r.ClusterID == ID{9}) != (how == "committed") || r.ClusterID != res[0].ClusterID {
					t.Fatalf("%+v", r)
				}
			}
		})
	}
}

func TestReusedNodeIDIsRefused(t *testing.T) {
	tw := newTown(t)
	for _, r := range tw.run(tw.start(t.TempDir(), "n1", 2), tw.start(t.TempDir(), "n2", 2)) {
		if r.err != nil {
			t.Fatal(r.err)
		}
	}
	res := tw.run(tw.start(t.TempDir(), "n1", 2))[0] // n2 knows another n1
	var r *RefusedError
	if !errors.As(res.err, &r) || r.Code != CodeNodeID {
		t.Fatalf("%+v", res)
	}
}

func TestWaitingSaysForWhat(t *testing.T) {
	tw := newTown(t)
	r := tw.start(t.TempDir(), "n1", 3)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := r.Run(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3 expected, 1 nodes seen (n1)") {
		t.Fatal(err)
	}
}

// A disk that fails ends forming, and everything said afterwards.
func TestDiskFailureEndsForming(t *testing.T) {
	tw := newTown(t)
	r := tw.start(t.TempDir(), "n1", 1)
	r.mu.core.save = func(Identity) error { return io.ErrShortWrite }
	if res := tw.run(r)[0]; !errors.Is(res.err, io.ErrShortWrite) {
		t.Fatalf("%+v", res)
	}
	m := message{Version: messageVersion, Kind: askKind, Cluster: "town", From: 5, FromNode: "x"}
	if a, err := decodeMessage(r.Answer(m.encode())); err != nil || a.Code != codeFailed {
		t.Fatalf("%+v, %v", a, err)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := New(Config{Expect: MaxVoters + 1})
	for _, want := range []string{"raft ID", "data directory", "peer address", "expect 65", "shards", "Candidates"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// answering is a core to put requests to, and what it must look like before and after.
func answering() *core {
	return &core{me: Identity{NodeID: "n5", RaftID: 5, Cluster: "c"}, expect: 2, shards: 5, save: func(Identity) error { return nil },
		draw: drawClusterID, jitter: func(int) int { return 0 }}
}

func TestBadRequestsChangeNothing(t *testing.T) {
	good := message{Version: messageVersion, Kind: prepareKind, Cluster: "c", From: 3, FromNode: "n3", To: 5, ClusterID: ID{1}, Coordinator: 3, Shards: 5,
		Voters: []Voter{{3, "n3", "a"}, {5, "n5", "b"}}}
	cases := map[string]struct {
		edit func(*message)
		code string
	}{
		"other cluster":   {func(m *message) { m.Cluster = "d" }, CodeCluster},
		"our node ID":     {func(m *message) { m.FromNode = "n5" }, CodeNodeID},
		"our raft ID":     {func(m *message) { m.From = 5 }, codeNode},
		"wrong node":      {func(m *message) { m.To = 6 }, codeNode},
		"no cluster ID":   {func(m *message) { m.ClusterID = ID{} }, codeInvalid},
		"no shards":       {func(m *message) { m.Shards = 0 }, codeInvalid},
		"not coordinator": {func(m *message) { m.Coordinator = 4 }, codeInvalid},
		"without us":      {func(m *message) { m.Voters = []Voter{{3, "n3", "a"}, {4, "n4", "b"}} }, codeInvalid},
		"without itself":  {func(m *message) { m.Voters = []Voter{{4, "n4", "a"}, {5, "n5", "b"}} }, codeInvalid},
		"twice a node":    {func(m *message) { m.Voters = []Voter{{3, "n3", "a"}, {5, "n5", "b"}, {5, "n5", "b"}} }, codeInvalid},
		"renames us":      {func(m *message) { m.Voters = []Voter{{3, "n3", "a"}, {5, "n6", "b"}} }, codeInvalid},
		"other expect":    {func(m *message) { m.Voters = []Voter{{3, "n3", "a"}, {5, "n5", "b"}, {6, "n6", "c"}} }, codeExpect},
		"unknown kind":    {func(m *message) { m.Kind = "dance" }, codeInvalid},
	}
	for name, c := range cases {
		m, k := good, answering()
		c.edit(&m)
		if r := k.answer(&m); r.Kind != refusedKind || r.Code != c.code || k.me.Promise != nil || k.me.formed() {
			t.Errorf("%s: %+v", name, r)
		}
	}
	k := answering()
	if r := k.answer(&good); r.Kind != promisedKind {
		t.Fatalf("%+v", r)
	}
	if r := k.answer(&good); r.Kind != promisedKind { // again
		t.Fatalf("%+v", r)
	}
	other := good
	other.ClusterID = ID{2}
	if r := k.answer(&other); r.Kind != busyKind || r.Coordinator != 3 {
		t.Fatalf("promised twice: %+v", r)
	}
	other.Kind = commitKind
	if r := k.answer(&other); k.me.formed() || r.Kind != busyKind {
		t.Fatalf("took another's commit: %+v", r)
	}
	other.Kind = releaseKind
	if k.answer(&other); k.me.Promise == nil {
		t.Fatal("released by another bootstrap")
	}
}

// FuzzAnswer: a request that is none changes nothing and does not panic.
func FuzzAnswer(f *testing.F) {
	m := message{Version: messageVersion, Kind: prepareKind, Cluster: "c", From: 3, FromNode: "n3", ClusterID: ID{1}, Coordinator: 3, Shards: 5,
		Voters: []Voter{{3, "n3", "a"}, {5, "n5", "b"}}}
	f.Add(m.encode())
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			return
		}
		k := answering()
		r := k.answer(&m)
		if k.me.formed() || k.me.Promise != nil && (r.Kind != promisedKind || len(k.me.Promise.Voters) != 2) {
			t.Fatalf("%+v became %+v", m, k.me)
		}
	})
}

func TestMessageLimits(t *testing.T) {
	m := message{Version: messageVersion, Kind: prepareKind, Cluster: strings.Repeat("c", MaxNameBytes), From: 3, FromNode: strings.Repeat("n", MaxNameBytes)}
	for i := range MaxVoters {
		m.Voters = append(m.Voters, Voter{RaftID: 1<<61 + uint64(i), NodeID: strings.Repeat("n", MaxNameBytes), PeerAddr: net.JoinHostPort(strings.Repeat("h", 253), "65535")})
	}
	b := m.encode()
	if _, err := decodeMessage(b); err != nil || len(b) > peer.MaxFormBytes {
		t.Fatalf("%d bytes, limit %d: %v", len(b), peer.MaxFormBytes, err)
	}
	m.Voters = append(m.Voters, Voter{})
	if _, err := decodeMessage(m.encode()); err == nil {
		t.Fatal("too many voters accepted")
	}
	for _, bad := range []string{"", "{}", "[]", string(b) + "x", string(b) + "}", strings.Replace(string(b), `"version":1`, `"version":9`, 1)} {
		if _, err := decodeMessage([]byte(bad)); err == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestCrashBetweenWriteAndRename(t *testing.T) {
	dir := t.TempDir()
	id, err := Open(files.FS{}, dir, "n1", "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName+".tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(files.FS{}, dir); err != nil || got.RaftID != id.RaftID {
		t.Fatal(got, err)
	}
	if _, err := Open(files.FS{}, dir, "n1", "c"); err != nil {
		t.Fatal(err)
	}
}
