package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// teller is as much of a node as tells a worker of other nodes and has it go on:
// a stream's session is drained at once, a lease is refused.
type teller struct {
	pb.UnimplementedWorkHandler
	server  *httptest.Server
	addr    string
	visited chan<- string // gets addr with each visit
	tells   func(visits int) []string
	visits  atomic.Int32
}

// newTeller listens; its server is started when it knows what to tell.
func newTeller(t *testing.T, visited chan<- string) *teller {
	x := &teller{visited: visited}
	mux := http.NewServeMux()
	mux.Handle(pb.NewWorkHandler(x))
	mux.HandleFunc("POST /v1/agents/register", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	mux.HandleFunc("POST /v1/leases", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(api.NodesHeader) != "" {
			w.Header().Set(api.NodesHeader, strings.Join(x.visit(), ","))
		}
		http.Error(w, "no problem of a node's, but a proxy's", http.StatusBadGateway)
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(s.Close)
	x.server, x.addr = s, s.Listener.Addr().String()
	return x
}

func (x *teller) visit() []string {
	x.visited <- x.addr
	return x.tells(int(x.visits.Add(1)))
}

func (x *teller) Session(_ context.Context, st *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	if m, err := st.Receive(); err != nil || m.Hello == nil {
		return errors.New("no hello")
	}
	return st.Send(&pb.SessionResponse{Welcome: &pb.Welcome{Nodes: x.visit()}, Drain: true})
}

// followsNodes runs a worker that is given one node's URL. It goes to those that
// it is told of, not to one that nobody tells of any more, and always comes back
// to the one that it was given.
func followsNodes(t *testing.T, worker func(url string) *exec.Cmd) {
	visited := make(chan string, 1024)
	given, early, late := newTeller(t, visited), newTeller(t, visited), newTeller(t, visited)
	given.tells = func(visits int) []string {
		if visits == 1 {
			return []string{given.addr, early.addr, "0.0.0.0:1"}
		}
		return []string{late.addr}
	}
	early.tells = func(int) []string { return []string{late.addr} }
	late.tells = func(int) []string { return nil } // says nothing
	for _, x := range []*teller{given, early, late} {
		x.server.Start()
	}
	cmd := worker("http://" + given.addr)
	startLogged(t, cmd)
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}()
	within := time.After(60 * time.Second)
	count := map[string]int{}
	for count[given.addr] < 4 || count[late.addr] < 2 {
		select {
		case addr := <-visited:
			count[addr]++
		case <-within:
			t.Fatalf("visits of %s, which was given: %d, of those told of first and later: %d and %d", given.addr, count[given.addr], count[early.addr], count[late.addr])
		}
	}
	if count[early.addr] != 1 {
		t.Errorf("%d visits of a node that is none any more, want 1", count[early.addr])
	}
}
