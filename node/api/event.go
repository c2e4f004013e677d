package api

// EventRequest asks for the audit records of the answering node as they come.
type EventRequest struct {
	// After is the ID of the last event seen; the stream goes on behind it, at
	// any node that has replicas of the same shards. "start" is the beginning;
	// empty is now.
	After  string
	Filter AuditFilter
}

// Event is one audit record with the ID to go on from. An Event without an ID
// is a sign of life.
type Event struct {
	ID     string
	Record Record
}
