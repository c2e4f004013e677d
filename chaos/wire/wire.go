package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/quorate/quorate/node/api"
)

// maxProblemBytes bounds the error body that is read.
const maxProblemBytes = 64 << 10

// Pool is a connection pool that clients share; conns is how many idle
// connections it keeps to one node.
func Pool(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: conns, DisableCompression: true,
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
	}}
}

// Client talks to one node.
type Client struct {
	Base string // http://host:port
	HTTP *http.Client
}

// Certain says that a failed call certainly had no effect: the node refused it,
// or no connection came about. Otherwise the outcome is unknown.
func Certain(err error) bool {
	if e := Problem(err); e != nil {
		return e.Retry != api.RetrySameKey && e.Status != http.StatusBadGateway
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Problem is the refusal a node answered, nil when it answered none.
func Problem(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// Submit submits tasks in one request; verdicts come in the order given.
func (c Client) Submit(ctx context.Context, specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
	var out struct {
		Tasks []api.SubmitVerdict `json:"tasks"`
	}
	if err := c.do(ctx, http.MethodPost, "/v1/tasks", specs, &out); err != nil {
		return nil, err
	}
	if len(out.Tasks) != len(specs) {
		return nil, fmt.Errorf("wire: %d verdicts for %d tasks", len(out.Tasks), len(specs))
	}
	return out.Tasks, nil
}

// Declare asks for the go for effects; verdicts come in the order given.
func (c Client) Declare(ctx context.Context, list []api.ActionRequest) ([]api.ActionVerdict, error) {
	var out struct {
		Actions []api.ActionVerdict `json:"actions"`
	}
	if err := c.do(ctx, http.MethodPost, "/v1/actions", list, &out); err != nil {
		return nil, err
	}
	if len(out.Actions) != len(list) {
		return nil, fmt.Errorf("wire: %d verdicts for %d actions", len(out.Actions), len(list))
	}
	return out.Actions, nil
}

// Resolve settles a task in doubt.
func (c Client) Resolve(ctx context.Context, task string, r api.Resolution) error {
	return c.do(ctx, http.MethodPost, "/v1/tasks/"+url.PathEscape(task)+"/resolve", r, nil)
}

// Lease asks for work, waiting at most wait for the first task.
func (c Client) Lease(ctx context.Context, agent string, max int, wait time.Duration) ([]api.Lease, error) {
	var out api.Leases
	err := c.do(ctx, http.MethodPost, "/v1/leases", api.LeaseRequest{AgentID: agent, Max: max, WaitSeconds: wait.Seconds()}, &out)
	return out.Tasks, err
}

// Settle ends held tasks; verdicts come in the order given.
func (c Client) Settle(ctx context.Context, agent string, list []api.Settlement) ([]api.SettleVerdict, error) {
	in := struct {
		AgentID  string           `json:"agent_id"`
		Outcomes []api.Settlement `json:"outcomes"`
	}{agent, list}
	var out struct {
		Outcomes []api.SettleVerdict `json:"outcomes"`
	}
	if err := c.do(ctx, http.MethodPost, "/v1/leases/settle", in, &out); err != nil {
		return nil, err
	}
	if len(out.Outcomes) != len(list) {
		return nil, fmt.Errorf("wire: %d verdicts for %d settlements", len(out.Outcomes), len(list))
	}
	return out.Outcomes, nil
}

// Register enters an agent with its capabilities.
func (c Client) Register(ctx context.Context, agent string, capabilities ...string) error {
	in := struct {
		AgentID      string   `json:"agent_id"`
		Capabilities []string `json:"capabilities"`
	}{agent, capabilities}
	return c.do(ctx, http.MethodPost, "/v1/agents/register", in, nil)
}

// Tasks reads the whole task list, page by page.
func (c Client) Tasks(ctx context.Context) ([]api.Task, error) {
	var all []api.Task
	q := url.Values{"limit": {strconv.Itoa(api.MaxPage)}}
	for {
		var page api.TaskPage
		if err := c.do(ctx, http.MethodGet, "/v1/tasks?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Tasks...)
		if page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

// Agents reads all registered agents, up to a page of them.
func (c Client) Agents(ctx context.Context) ([]api.Agent, error) {
	var page api.AgentPage
	err := c.do(ctx, http.MethodGet, "/v1/agents?limit="+strconv.Itoa(api.MaxPage), nil, &page)
	return page.Agents, err
}

// Cluster reads the cluster as the node sees it.
func (c Client) Cluster(ctx context.Context) (api.Cluster, error) {
	var v api.Cluster
	err := c.do(ctx, http.MethodGet, "/v1/cluster", nil, &v)
	return v, err
}

// Verify has the node recompute its ledgers from disk.
func (c Client) Verify(ctx context.Context) (api.LedgerVerification, error) {
	var v api.LedgerVerification
	err := c.do(ctx, http.MethodGet, "/v1/audit/verify", nil, &v)
	return v, err
}

// Export reads all audit records of the node, in shard and sequence order.
func (c Client) Export(ctx context.Context) ([]api.Record, error) {
	var records []api.Record
	err := c.stream(ctx, "/v1/audit/export", func(d *json.Decoder) error {
		var r api.Record
		if err := d.Decode(&r); err != nil {
			return err
		}
		if r.Seq > 0 { // not the header, nor a root between records
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

func (c Client) stream(ctx context.Context, path string, next func(*json.Decoder) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		if err := next(d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("wire: GET %s%s: %w", c.Base, path, err)
		}
	}
}

// do sends in as JSON (nil: no body) and decodes the answer into out (nil:
// ignored).
func (c Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("wire: %s %s%s: %w", method, c.Base, path, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("wire: %s %s%s: %w", method, c.Base, path, err)
	}
	return nil
}

func (c Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("wire: %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblemBytes)) // what could be read is quoted
	problem := new(api.Error)
	if json.Unmarshal(b, problem) != nil || problem.Code == "" {
		return nil, fmt.Errorf("wire: %s %s%s: %s: %.300s", method, c.Base, path, resp.Status, b)
	}
	return nil, fmt.Errorf("wire: %s %s%s: %w", method, c.Base, path, problem)
}
