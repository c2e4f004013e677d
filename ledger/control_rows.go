package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Rows of the control shard's checkpoint, each beginning with a version u8:
//
//	'c'                 cluster ID 16 bytes, name, shards
//	'n' raft ID u64 BE  a node: raft ID, node ID, peer, api, gossip address, version
//	'k' key             raft ID, key, entered at
//	'x' raft ID u64 BE  (nothing more): a removed node
//	'q' name            a rule pack: name, text (byte string), by, entered at
//	'b' fleet           its packs: fleet, names
//	'r' fleet           its retention: fleet, tasks, keys (ms each), by, set at
//	'a' agent ID        ID, manifest, capabilities, max tasks, state u8, reason, incarnation, registered at, updated at
//
// Meta: version u8 (2: and that of audit records, u8), ledger time, records,
// last chain hash 32 bytes.
const (
	rowCluster = 'c'
	rowNode    = 'n'
	rowRemoved = 'x'
	rowKey     = 'k'
	rowAgent   = 'a'
	rowPack    = 'q'
	rowBinding = 'b'

	rowRetention = 'r'
	rowRecords   = 'l'
)

type rowName struct {
	prefix byte
	name   string
}

func raftName(id uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], id)
	return string(b[:])
}

func (c *Control) touch(prefix byte, name string) {
	c.dirty = append(c.dirty, rowName{prefix, name})
	c.changed = append(c.changed, rowName{prefix, name})
}

// Freeze returns what changed since the last Freeze.
func (c *Control) Freeze() (puts []KV, deletes [][]byte, meta []byte) {
	slices.SortFunc(c.dirty, func(a, b rowName) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), strings.Compare(a.name, b.name))
	})
	for _, d := range slices.Compact(c.dirty) {
		key := append([]byte{d.prefix}, d.name...)
		if value := c.row(d); value != nil {
			puts = append(puts, KV{key, value})
		} else {
			deletes = append(deletes, key)
		}
	}
	c.dirty = c.dirty[:0]
	return puts, deletes, c.appendMeta(nil)
}

// Thaw does nothing: all of it stays in memory.
func (c *Control) Thaw() {}

func (c *Control) appendMeta(dst []byte) []byte {
	dst = appendInt(c.journal.appendMetaVersion(dst), c.now)
	dst = appendUint(dst, c.journal.head.Seq)
	return append(dst, c.journal.head.Hash[:]...)
}

// row encodes a row; nil when it is no more.
func (c *Control) row(d rowName) []byte {
	b := []byte{rowVersion}
	switch d.prefix {
	case rowCluster:
		b = appendString(append(b, c.cluster.ID[:]...), c.cluster.Name)
		return appendUint(b, uint64(c.cluster.Shards))
	case rowNode:
		if i, ok := c.nodeAt(binary.BigEndian.Uint64([]byte(d.name))); ok {
			return c.nodes[i].append(b)
		}
		return nil
	case rowKey:
		if i, ok := c.keyAt(d.name); ok {
			return c.keys[i].append(b)
		}
		return nil
	case rowRemoved:
		return b
	case rowPack, rowBinding:
		return c.packRow(d, b)
	case rowRetention:
		if i, ok := c.retentionAt(d.name); ok {
			return c.retentions[i].append(b)
		}
		return nil
	case rowRecords:
		if i, ok := c.recordsAt(d.name); ok {
			return c.recordRetentions[i].append(b)
		}
		return nil
	}
	if d.prefix != rowAgent {
		return c.memberRow(b, d)
	}
	if i, ok := c.agentAt(d.name); ok {
		return c.agents[i].append(b)
	}
	return nil
}

func (a *Agent) append(dst []byte) []byte {
	dst = appendBytes(appendString(dst, a.ID), a.Manifest)
	dst = appendUint(appendCapabilities(dst, a.Capabilities), uint64(a.MaxTasks))
	dst = appendString(append(dst, uint8(a.State)), a.Reason)
	dst = appendUint(dst, a.Incarnation)
	return appendInt(appendInt(dst, a.RegisteredMillis), a.UpdatedMillis)
}

func (a *Agent) read(r *reader) {
	a.ID, a.Manifest = r.string(), r.bytes()
	a.Capabilities, a.MaxTasks = readCapabilities(r), r.uint32()
	a.State, a.Reason, a.Incarnation = AgentStatus(r.u8()), r.string(), r.uint()
	a.RegisteredMillis, a.UpdatedMillis = r.int(), r.int()
	if a.State < AgentHealthy || a.State > AgentOffline {
		r.fail("no such state of an agent")
	}
}

// Restore rebuilds the state from the checkpoint in Cold; nil meta: empty.
func (c *Control) Restore(meta []byte) error {
	*c = *NewControl(c.cold, c.journal.sink)
	if meta == nil {
		return nil
	}
	r := newReader(meta)
	format := readMetaVersion(&r)
	var h Head
	c.now, h.Seq = r.int(), r.uint()
	r.fixed(h.Hash[:])
	err := r.end()
	if err == nil {
		var bad error
		err = c.cold.Scan([]byte{0}, nil, func(key, value []byte) bool {
			bad = c.restoreRow(key, value)
			return bad == nil
		})
		err = firstError(err, bad)
	}
	if err != nil {
		*c = *NewControl(c.cold, c.journal.sink)
		return fmt.Errorf("ledger: control shard: checkpoint: %w", err)
	}
	c.journal.restore(format, h)
	return nil
}

// restoreRow takes rows in key order, so lists stay sorted by appending.
func (c *Control) restoreRow(key, value []byte) error {
	r := newReader(value)
	if v := r.u8(); r.err == nil && v != rowVersion {
		r.fail(fmt.Sprintf("row version %d is not known", v))
	}
	name := ""
	switch key[0] {
	case rowCluster:
		r.fixed(c.cluster.ID[:])
		c.cluster.Name, c.cluster.Shards = r.string(), r.uint32()
	case rowNode:
		var n Node
		n.read(&r)
		c.nodes = append(c.nodes, n)
		name = raftName(n.RaftID)
	case rowKey:
		var k Key
		k.read(&r)
		c.keys = append(c.keys, k)
		name = k.Key
	case rowRemoved:
		if len(key) != 9 {
			r.fail("not a raft ID")
			break
		}
		c.removed = append(c.removed, binary.BigEndian.Uint64(key[1:]))
		name = string(key[1:])
	case rowAgent:
		a := new(Agent)
		a.read(&r)
		c.agents = append(c.agents, a)
		name = a.ID
	case rowPack, rowBinding:
		name = c.restorePackRow(key[0], &r)
	case rowRetention:
		var p Retention
		p.read(&r)
		c.retentions = append(c.retentions, p)
		name = p.Fleet
	case rowRecords:
		var p RecordRetention
		p.read(&r)
		c.recordRetentions = append(c.recordRetentions, p)
		name = p.Fleet
	default:
		name = c.restoreMemberRow(key[0], &r)
	}
	if r.err == nil && string(key[1:]) != name {
		r.fail("another row's key")
	}
	if err := r.end(); err != nil {
		return fmt.Errorf("row %q: %w", key, err)
	}
	return nil
}

// Summary is a digest of ledger time and the audit chain, and so of every
// decision that was ever recorded.
func (c *Control) Summary() uint64 { return hashBytes(ControlShard, c.appendMeta(nil)) }

// Changed is a digest of every row that commands changed since it was last
// called (or since the shard was restored), as each of them left it. Equal on
// all replicas that asked, and were restored, at equal indexes.
func (c *Control) Changed() uint64 {
	h := c.changes
	c.changes = 0
	return h
}

// noteChanged adds what a command changed to Changed.
func (c *Control) noteChanged() {
	for _, d := range c.changed {
		c.changes = hashBytes(mix(c.changes, uint64(d.prefix)), []byte(d.name))
		c.changes = hashBytes(c.changes, c.row(d))
	}
	c.changed = c.changed[:0]
}

// Digest hashes the state: equal on all replicas that have applied the same
// log.
func (c *Control) Digest() uint64 {
	h := c.Summary()
	h = hashBytes(h, c.row(rowName{prefix: rowCluster}))
	h = mix(mix(mix(h, uint64(len(c.nodes))), uint64(len(c.removed))), uint64(len(c.agents)))
	var buf []byte
	for i := range c.nodes {
		buf = c.nodes[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range c.keys {
		buf = c.keys[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for _, id := range c.removed {
		h = mix(h, id)
	}
	for _, a := range c.agents {
		buf = a.append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range c.retentions { // none: clusters without them keep their digests
		buf = c.retentions[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range c.recordRetentions { // likewise
		buf = c.recordRetentions[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	return c.packDigest(c.membership.digest(h))
}
