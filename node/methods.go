package node

// method numbers what one node asks of another over the peer connection. Nodes
// of different versions speak to one another: a number is never given to
// anything else.
type method = uint8

const (
	methodDo    method = 1 // propose commands (binary, do.go)
	methodTask  method = 2
	methodTasks method = 3
	methodRenew method = 4
	// 5 asked for leases and was answered in JSON
	methodHeld      method = 6 // what agents hold of a shard, for its new leader
	methodStats     method = 7
	methodAgents    method = 8
	methodSeen      method = 9
	methodGone      method = 10
	methodWhy       method = 11
	methodCosign    method = 12
	methodPacks     method = 13
	methodSteal     method = 14 // leases for an idle node's agents (grantwire.go)
	methodRenewMany method = 40

	methodBodies  method = 60 // of leased tasks, for a node without a replica
	methodRecords method = 61
	methodShard   method = 62 // how a shard's members stand, on its leader
	methodChange  method = 63 // one change of a shard's members, on its leader
	methodHosts   method = 64 // which replicas a node has
	methodCreate  method = 65 // make a replica
	methodDrop    method = 66 // put one away
	methodRetired method = 67
	methodNodes   method = 68 // an operation on nodes, on the control shard's leader

	methodGiveBack  method = 90
	methodHolding   method = 91
	methodJournal   method = 92 // how much of a shard's journal a node has
	methodElsewhere method = 93
	methodRetention method = 97
	methodRob       method = 110
	methodTransfer  method = 111

	methodHead  method = 120 // of an audit log, from a node that has it
	methodLinks method = 121
	methodLeaf  method = 122
	methodFind  method = 123
)

// Notifications between nodes, which may be lost.
const (
	notifyDepths  uint8 = 1
	notifyConfirm uint8 = 3 // leases that arrived (grantwire.go); as 2 in JSON
	notifySession uint8 = 40
	notifyLoad    uint8 = 50 // what an agent says of its load
	notifyLeads   uint8 = 60
	notifyIdle    uint8 = 93
	notifySpare   uint8 = 94
	notifyWaits   uint8 = 95 // agents that wait
	notifyGift    uint8 = 96 // leases for one of them
)
