package proof

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Head is how far a shard's log reaches, and the root over it.
type Head struct {
	Shard uint32
	Size  uint64
	Root  tlog.Hash
}

// Checkpoint is one audit checkpoint: the heads of all shards of a cluster,
// ascending by shard. As text it is the body of a signed note in the
// tlog-checkpoint format of C2SP:
//
//	quorate/CLUSTER/audit            origin; CLUSTER is the cluster ID, 32 hex digits
//	SIZE                             records in all shards together
//	ROOT                             base64 of the RFC 6962 hash of the lines below that begin with "shard", each
//	                                 (without its line feed) a leaf
//	time MILLISECONDS                since the Unix epoch, as the signing node saw it
//	shard NUMBER SIZE ROOT           one line a shard
type Checkpoint struct {
	Cluster    [16]byte
	TimeMillis int64
	Shards     []Head
}

// MaxCheckpointBytes bounds a signed checkpoint: 1024 shards of 80 bytes and
// as many signatures of 150.
const MaxCheckpointBytes = 1024 * 256

// ErrCheckpoint wraps what is wrong with the text of a checkpoint.
var ErrCheckpoint = errors.New("not an audit checkpoint")

// Origin names the log of a cluster.
func Origin(cluster [16]byte) string { return fmt.Sprintf("quorate/%x/audit", cluster) }

func (h *Head) line() string {
	return fmt.Sprintf("shard %d %d %s", h.Shard, h.Size, base64.StdEncoding.EncodeToString(h.Root[:]))
}

// Text is what is signed.
func (c *Checkpoint) Text() string {
	var top Tree
	var size uint64
	var lines strings.Builder
	for i := range c.Shards {
		l := c.Shards[i].line()
		top.Append(Leaf([]byte(l)))
		lines.WriteString(l + "\n")
		size += c.Shards[i].Size
	}
	root := top.Root()
	return fmt.Sprintf("%s\n%d\n%s\ntime %d\n%s", Origin(c.Cluster), size, base64.StdEncoding.EncodeToString(root[:]), c.TimeMillis, lines.String())
}

// ParseCheckpoint reads the text, without its signatures. There is one text
// to a checkpoint: any other is refused.
func ParseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	bad := func(line int, what string) (Checkpoint, error) {
		return Checkpoint{}, fmt.Errorf("line %d: %s: %w", line, what, ErrCheckpoint)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 5 || lines[len(lines)-1] != "" {
		return bad(len(lines), "it is too short")
	}
	var cluster []byte
	if n, err := fmt.Sscanf(lines[0], "quorate/%x/audit", &cluster); n != 1 || err != nil || len(cluster) != len(c.Cluster) {
		return bad(1, "not the origin of a cluster's audit log")
	}
	c.Cluster = [16]byte(cluster)
	var err error
	if t, ok := strings.CutPrefix(lines[3], "time "); !ok {
		return bad(4, "the time is missing")
	} else if c.TimeMillis, err = strconv.ParseInt(t, 10, 64); err != nil {
		return bad(4, "not a time")
	}
	for i, l := range lines[4 : len(lines)-1] {
		f := strings.Split(l, " ")
		if len(f) != 4 || f[0] != "shard" {
			return bad(i+5, "not a shard's head")
		}
		shard, err1 := strconv.ParseUint(f[1], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 63)
		root, err3 := base64.StdEncoding.DecodeString(f[3])
		if err1 != nil || err2 != nil || err3 != nil || len(root) != tlog.HashSize {
			return bad(i+5, "not a shard's head")
		}
		if n := len(c.Shards); n > 0 && c.Shards[n-1].Shard >= uint32(shard) {
			return bad(i+5, "shards out of order")
		}
		c.Shards = append(c.Shards, Head{uint32(shard), size, tlog.Hash(root)})
	}
	if c.Text() != text {
		return bad(2, "size or root is not what the shards' heads give")
	}
	return c, nil
}

// Head is a shard's.
func (c *Checkpoint) Head(shard uint32) (Head, bool) {
	for _, h := range c.Shards {
		if h.Shard == shard {
			return h, true
		}
	}
	return Head{}, false
}

// Signed is a checkpoint whose signatures were checked.
type Signed struct {
	Checkpoint
	By []string // names of the known keys that signed it
}

// Open checks a signed checkpoint: each signature by one of the given keys
// (note's text form: name+hash+key, after [Removed] if its node has left) must
// be good, and need of them must be there; 0 means more than half of the keys
// whose nodes have not left, by those alone.
func Open(signed []byte, keys []string, need int) (Signed, error) {
	if len(signed) > MaxCheckpointBytes {
		return Signed{}, fmt.Errorf("%d bytes, at most %d: %w", len(signed), MaxCheckpointBytes, ErrCheckpoint)
	}
	type identity struct {
		name string
		hash uint32
	}
	var vs []note.Verifier
	counts := map[identity]bool{}
	known := 0
	for _, k := range keys {
		k, left := strings.CutPrefix(strings.TrimSpace(k), Removed)
		v, err := note.NewVerifier(k)
		if err != nil {
			return Signed{}, fmt.Errorf("key %q: %w", k, err)
		}
		vs = append(vs, v)
		if !left || need > 0 {
			counts[identity{v.Name(), v.KeyHash()}] = true
			known++
		}
	}
	if need <= 0 {
		need = known/2 + 1
	}
	n, err := note.Open(signed, note.VerifierList(vs...))
	if err != nil {
		return Signed{}, fmt.Errorf("checkpoint: it is altered, or no known key signed it: %w", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Signed{}, fmt.Errorf("checkpoint: %w", err)
	}
	s := Signed{Checkpoint: c}
	signers := 0
	for _, sig := range n.Sigs {
		if raw, err := base64.StdEncoding.DecodeString(sig.Base64); err != nil || base64.StdEncoding.EncodeToString(raw) != sig.Base64 {
			return Signed{}, fmt.Errorf("checkpoint: the signature by %s is not in its one form: %w", sig.Name, ErrCheckpoint)
		}
		s.By = append(s.By, sig.Name)
		if counts[identity{sig.Name, sig.Hash}] {
			signers++
		}
	}
	if signers < need {
		return s, fmt.Errorf("checkpoint: signed by %s: %d of the %d keys that count, %d are needed (keys of removed nodes count only towards a number of signatures that is asked for)",
			strings.Join(s.By, ", "), signers, known, need)
	}
	return s, nil
}

// Removed stands before the key of a node that has left.
const Removed = "# removed: "

// ReadKeys reads the keys of checkpoints, a line each, as Open takes them, and
// says how many of them are of nodes that are still there.
func ReadKeys(text string) (keys []string, current int) {
	for _, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, Removed) {
			keys = append(keys, l)
		} else if l != "" && !strings.HasPrefix(l, "#") {
			keys = append(keys, l)
			current++
		}
	}
	return keys, current
}
