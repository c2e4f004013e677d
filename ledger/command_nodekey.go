package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// NodeKey enters the public key that a node signs audit checkpoints with, as
// a note's verifier key: name+id+key. A node may enter more than one in its
// life; none is ever taken out, for what it signed stays signed.
type NodeKey struct {
	RaftID uint64
	Key    string
}

// Key is a public key that checkpoints are signed with.
type Key struct {
	RaftID        uint64
	Key           string
	EnteredMillis int64
}

const (
	maxKeyTextBytes = 256
	maxNodeKeys     = 4 << 10 // seven nodes, replaced every month for 48 years
)

func (*NodeKey) kind() kind { return kindNodeKey }

// Append implements Command.
func (c *NodeKey) Append(dst []byte) []byte {
	return appendString(appendUint(appendHead(dst, kindNodeKey), c.RaftID), c.Key)
}

func (c *NodeKey) read(r *reader) { c.RaftID, c.Key = r.uint(), r.string() }

// Keys are the keys of all nodes that ever were, in the order of their text.
func (c *Control) Keys() []Key { return slices.Clone(c.keys) }

func (c *Control) keyAt(text string) (int, bool) {
	return slices.BinarySearchFunc(c.keys, text, func(k Key, text string) int { return strings.Compare(k.Key, text) })
}

func (c *Control) nodeKey(x *NodeKey) Outcome {
	if x.RaftID == 0 || len(x.Key) > maxKeyTextBytes || strings.Count(x.Key, "+") < 2 || strings.ContainsAny(x.Key, " \n") {
		return invalid("a key needs a raft ID and a text of name+id+key")
	}
	node, known := c.nodeAt(x.RaftID)
	i, have := c.keyAt(x.Key)
	switch {
	case have && c.keys[i].RaftID == x.RaftID:
		return Outcome{Replayed: true}
	case have:
		return Outcome{Code: Exists, Detail: fmt.Sprintf("the key belongs to raft ID %016x", c.keys[i].RaftID)}
	case !known:
		return Outcome{Code: NotFound, Detail: fmt.Sprintf("there is no node with raft ID %016x", x.RaftID)}
	case len(c.keys) >= maxNodeKeys:
		return invalid("the cluster has had too many keys")
	}
	c.keys = slices.Insert(c.keys, i, Key{RaftID: x.RaftID, Key: x.Key, EnteredMillis: c.now})
	c.touch(rowKey, x.Key)
	c.record(Record{Verb: VerbNodeKey, Actor: c.nodes[node].NodeID, Detail: x.Key})
	return Outcome{}
}

func (k *Key) append(dst []byte) []byte {
	return appendInt(appendString(appendUint(dst, k.RaftID), k.Key), k.EnteredMillis)
}

func (k *Key) read(r *reader) { k.RaftID, k.Key, k.EnteredMillis = r.uint(), r.string(), r.int() }
