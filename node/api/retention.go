package api

import "time"

// Retention is how long a fleet's ended tasks and their idempotency keys live,
// after the end. A key answers with its task's stored result, so a task with a
// key stays for the longer of the two, and its key with it. Audit records stay.
type Retention struct {
	FleetID     string     `json:"fleet_id,omitempty" doc:"*: fleets without a retention of their own"`
	TasksMillis int64      `json:"tasks_ms" doc:"0: for ever; else 1 minute to 100 years"`
	KeysMillis  int64      `json:"keys_ms" doc:"Likewise"`
	By          string     `json:"by,omitempty" doc:"Who set it; default the X-Quorate-Actor header, else the remote address"`
	SetAt       *time.Time `json:"set_at,omitempty"`
}

// RetentionPage lists the retentions that are set, by fleet.
type RetentionPage struct {
	Retentions    []Retention `json:"retentions"`
	DefaultMillis int64       `json:"default_ms" doc:"Of fleets that none of these is about, on the answering node (--task-retention); 0: for ever"`
}
