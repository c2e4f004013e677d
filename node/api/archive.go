package api

// ArchiveRun is records that left a shard's journal.
type ArchiveRun struct {
	Shard   uint32 `json:"shard"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	File    string `json:"file,omitempty" doc:"In the directory; beside it are FILE.checkpoint and FILE.keys"`
	Dropped bool   `json:"dropped,omitempty" doc:"Without an archive, as their fleets' retention says"`
}

// ArchivePage is what a node archived when it was asked to, and all that its
// journals lack.
type ArchivePage struct {
	NodeID    string       `json:"node_id"`
	Directory string       `json:"directory"`
	Runs      []ArchiveRun `json:"runs"`
	Archived  []Archived   `json:"archived,omitempty"`
}
