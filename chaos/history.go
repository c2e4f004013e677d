package chaos

import (
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/node/api"
)

// Answer is what a client knows after a request: three outcomes, not two.
type Answer string

// The three answers.
const (
	Acked   Answer = "acked"   // done, and said so
	Refused Answer = "refused" // certainly not done
	Unknown Answer = "unknown" // no answer, or one that says nothing
)

// Span places an operation in real time: it happened somewhere between the two
// ticks. Of two operations whose spans do not overlap, one came first.
type Span struct {
	Began int64 `json:"began"`
	Ended int64 `json:"ended"`
}

// before says whether s was over when t began.
func (s Span) before(t Span) bool { return s.Ended < t.Began }

// Submission is one task submitted once; a retry is another.
type Submission struct {
	Span
	Key      string `json:"key"`
	TaskID   string `json:"task_id,omitempty"`
	State    string `json:"state,omitempty"`
	Replayed bool   `json:"replayed,omitempty"`
	Answer   Answer `json:"answer"`
}

// Grant is one lease handed to a worker.
type Grant struct {
	Span
	TaskID  string `json:"task_id"`
	AgentID string `json:"agent_id"`
	Epoch   uint64 `json:"epoch"`
}

// Settling is one attempt to end a held task.
type Settling struct {
	Span
	TaskID   string `json:"task_id"`
	AgentID  string `json:"agent_id"`
	Epoch    uint64 `json:"epoch"`
	Verdict  string `json:"verdict"` // complete or fail
	Result   string `json:"result,omitempty"`
	State    string `json:"state,omitempty"` // as answered
	Replayed bool   `json:"replayed,omitempty"`
	Code     string `json:"code,omitempty"` // of a refusal
	Answer   Answer `json:"answer"`
}

// Sight is a task as one node showed it after everything had come to rest.
type Sight struct {
	NodeID  string `json:"node_id"`
	TaskID  string `json:"task_id"`
	State   string `json:"state"`
	AgentID string `json:"agent_id,omitempty"`
	Epoch   uint64 `json:"epoch"`
	Result  string `json:"result,omitempty"`
}

// Book is the whole audit ledger of one node, read from its own disk after
// everything had come to rest.
type Book struct {
	NodeID  string          `json:"node_id"`
	Bad     []api.BadRecord `json:"bad,omitempty"`
	Records []api.Record    `json:"records"`
}

// History is everything clients asked and were told. Its methods may be called
// from any goroutine; the slices are read when all of them have ended.
type History struct {
	Submissions []Submission `json:"submissions"`
	Grants      []Grant      `json:"grants"`
	Settlings   []Settling   `json:"settlings"`
	Sights      []Sight      `json:"sights"`
	Books       []Book       `json:"books"`
	Effects     []Effect     `json:"effects"`

	mu    sync.Mutex // guards the slices while recording
	clock atomic.Int64
}

// tick is the next moment of the history's clock.
func (h *History) tick() int64 { return h.clock.Add(1) }

func (h *History) submitted(s ...Submission) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Submissions = append(h.Submissions, s...)
}

func (h *History) granted(g ...Grant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Grants = append(h.Grants, g...)
}

func (h *History) settled(s ...Settling) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Settlings = append(h.Settlings, s...)
}

func (h *History) seen(s ...Sight) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Sights = append(h.Sights, s...)
}

func (h *History) booked(b Book) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Books = append(h.Books, b)
}
