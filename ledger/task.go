package ledger

// RetryPolicy says how often and how soon a failed attempt is repeated.
type RetryPolicy struct {
	MaxRetries         uint32 // attempts beyond the first
	Backoff            Backoff
	InitialDelayMillis int64 // 0: at once
	MaxDelayMillis     int64 // 0: no cap
}

// Spec is a task as submitted; it never changes. JSON fields are kept byte
// for byte. Slices of a Spec that the ledger returned are shared: read only.
type Spec struct {
	Fleet, Action, Target string
	Description           string
	Input, Context        []byte // any JSON
	Priority              Priority
	Guarantee             Guarantee
	Key                   string // idempotency key; empty: the task is known by its ID only
	DeadlineMillis        int64  // 0: none
	NotBeforeMillis       int64  // 0: at once
	After                 []TaskID
	LeaseMillis           int64
	Retry                 RetryPolicy
	Reversible            bool
	Rollback, Verify      []byte // JSON
	Approval, Compliance  []byte // JSON
	Session               string
	Parent                TaskID
	SubmittedBy           string
}

// Task is a task as the ledger knows it.
type Task struct {
	ID              TaskID
	Spec            Spec // DeadlineMillis is cleared by a retry after it passed
	RequestHash     [32]byte
	State           State
	Epoch           uint64 // of the newest lease known to have ended; 0: none
	Attempts        uint32 // that ended
	Agent           string // who made the last of them
	Result          []byte // JSON; shared, read only
	Error           string // why the last failed attempt failed
	CreatedMillis   int64  // ledger time of the submit
	UpdatedMillis   int64  // of the last change
	CompletedMillis int64  // of the end; 0: not ended
	NotBeforeMillis int64  // submitted: becomes ready then
	ReadyMillis     int64  // when it last became ready; 0: never
	Txn             *Txn   // what a plain task does not have; nil: it is one
}

// Brief is what a scheduler needs of a task: a copy, with nothing of the
// ledger's behind it but immutable strings.
type Brief struct {
	ID              TaskID
	Fleet           string
	Capability      string // action:target
	State           State
	Priority        Priority
	Guarantee       Guarantee
	Attempts        uint32
	Epoch           uint64
	LeaseMillis     int64
	NotBeforeMillis int64
	DeadlineMillis  int64
	CreatedMillis   int64
	ReadyMillis     int64
	Logged          bool   // its leases are in the log
	Self            bool   // performed by who declares it: not the scheduler's
	Holder          string // running or unknown: who holds (held) Epoch
}

// Event says that a task was created or changed: Brief is the task after it.
type Event struct {
	Brief
	From    State // 0: it was created
	Index   uint64
	Agent   string // complete, fail, expire: whose attempt ended
	Settled bool   // its holder ended it: complete or fail
}

// At is where in the log a command stands.
type At struct {
	Index, Term uint64
	TimeMillis  int64 // stamped by the proposer; the ledger's time never goes back
}

// Head is the end of an audit chain: how many records, and the hash of the
// last (of the shard's beginning, when there is none).
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// Query selects tasks; zero fields match all.
type Query struct {
	Fleet, Action, Target, Agent, Session string
	States                                []State
	After                                 TaskID // exclusive
	Limit                                 int    // 0: none
}

// Page is one step of a listing.
type Page struct {
	Tasks []Task
	Next  TaskID // where to go on ([Query].After)
	More  bool   // there may be more behind Next
}

// KV is one row of the state checkpoint.
type KV struct{ Key, Value []byte }

// Cold reads the state checkpoint: the rows of every Freeze that was thawed.
// It is safe for concurrent use.
type Cold interface {
	// Get returns a copy of the value.
	Get(key []byte) (value []byte, found bool, err error)
	// Scan calls fn with the rows in [from, to) in key order until it returns
	// false; key and value are valid during the call only.
	Scan(from, to []byte, fn func(key, value []byte) bool) error
}
