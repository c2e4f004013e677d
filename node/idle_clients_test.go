package node

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// A thousand clients that connect and do nothing, some without a word, some in
// the middle of a header, some waiting for what does not come, do not stop the
// thousand-and-first. What is over the limit of connections is told so, while
// those that are there go on, and there is room again when some have gone.
func TestThousandIdleClients(t *testing.T) {
	t.Parallel()
	const clients, budget = 1000, 16 << 20 // 1024 connections, 768 of them from one host
	c := startCluster(t, 1, func(cfg *Config) { single(cfg); cfg.MemoryBudgetBytes = 2 * budget })
	n := c.nodes[0]
	var conns []net.Conn
	hang := func(say string) {
		conn, err := net.Dial("tcp", n.APIAddr())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if _, err := conn.Write([]byte(say)); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	for i := range clients {
		hang([]string{"", "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Le", "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"}[i%3])
	}
	cl := clientOf(t, n)
	one := func(key string) {
		t.Helper()
		v, err := cl.Submit(t.Context(), api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		if task, err := cl.Wait(t.Context(), v.TaskID); err != nil || task.State != "completed" {
			t.Fatalf("%+v, %v", task, err)
		}
	}
	stop := working(t, cl, client.WorkConfig{Manifest: manifest("w", 1, "do:it"), Handler: func(context.Context, *client.Task) (any, error) { return 1, nil }})
	one("beside a thousand")

	for refused := false; !refused && len(conns) < 2*clients; {
		hang("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(conns[len(conns)-1]), nil)
		if err != nil {
			t.Fatal(err)
		}
		refused = answer.StatusCode == 429
		if body := fmt.Sprint(answer.Header); refused && !strings.Contains(body, "problem+json") {
			t.Errorf("refused with %s", body)
		}
		_ = answer.Body.Close()
	}
	if want := 2 * budget / connBytes * 3 / 4; len(conns) > want {
		t.Errorf("%d connections of one host, the limit is %d", len(conns), want)
	}
	one("at the limit") // over the connections that are there
	for _, conn := range conns[len(conns)/2:] {
		_ = conn.Close()
	}
	conns = conns[:len(conns)/2]
	other := clientOf(t, n)
	c.eventually("room for another connection", func() error {
		_, err := other.Cluster(t.Context())
		return err
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}
