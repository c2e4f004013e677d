package api

import "time"

// Retention is how long a fleet's ended tasks and their idempotency keys live,
// after the end. A key answers with its task's stored result, so a task with a
// key stays for the longer of the two, and its key with it. Of audit records see [RecordRetention].
type Retention struct {
	FleetID     string     `json:"fleet_id,omitempty" doc:"*: fleets without a retention of their own"`
	TasksMillis int64      `json:"tasks_ms" doc:"0: for ever; else 1 minute to 100 years"`
	KeysMillis  int64      `json:"keys_ms" doc:"Likewise"`
	By          string     `json:"by,omitempty" doc:"Who set it; default the X-Quorate-Actor header, else the remote address"`
	SetAt       *time.Time `json:"set_at,omitempty"`
}

// RecordRetention is how long a fleet's audit records stay in the journals;
// then they are archived, or dropped. A journal goes from its beginning on: a
// record stays until all before it in its shard may go, too.
type RecordRetention struct {
	FleetID       string     `json:"fleet_id,omitempty" doc:"*: fleets without a retention of their own, and records that name no fleet"`
	RecordsMillis int64      `json:"records_ms" doc:"0: for ever; else 1 second to 100 years"`
	NoArchive     bool       `json:"no_archive,omitempty" doc:"Drop them without an archive"`
	By            string     `json:"by,omitempty" doc:"Who set it; default the X-Quorate-Actor header, else the remote address"`
	SetAt         *time.Time `json:"set_at,omitempty"`
}

// RetentionPage lists the retentions that are set, by fleet.
type RetentionPage struct {
	Retentions    []Retention       `json:"retentions"`
	Records       []RecordRetention `json:"records,omitempty" doc:"Of audit records; fleets that none is about keep them for ever"`
	DefaultMillis int64             `json:"default_ms" doc:"Of fleets that none of these is about, on the answering node (--task-retention); 0: for ever"`
}
