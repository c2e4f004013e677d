package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
)

// cosignRequest asks a peer to sign a checkpoint. Proofs come along in the
// second attempt, for the shards that the peer asked about.
type cosignRequest struct {
	Text   string                   `json:"text"`
	Proofs []proof.ConsistencyProof `json:"proofs,omitempty"`
}

// cosignAnswer is a signature line, or which proofs are wanted: from which
// sizes on.
type cosignAnswer struct {
	Line string            `json:"line,omitempty"`
	Key  string            `json:"key,omitempty"`
	Want map[uint32]uint64 `json:"want,omitempty"`
}

// cosignWait is how long a peer waits for its own replicas to get as far as
// the checkpoint it is asked to sign.
const cosignWait = 2 * time.Second

// errBehind says that this node's replica is not there yet.
var errBehind = errors.New("this node's replica has not got there yet")

// Checkpoint makes an audit checkpoint: the heads of all shards, signed by
// this node and every peer that can be reached and agrees.
func (n *core) Checkpoint(ctx context.Context) ([]byte, error) {
	c := proof.Checkpoint{Cluster: [16]byte(n.id.ClusterID), TimeMillis: n.nowMillis()}
	for shard := range n.shards {
		h, err := n.treeHead(ctx, shard)
		if err != nil {
			return nil, err
		}
		c.Shards = append(c.Shards, h)
	}
	text := c.Text()
	own, err := n.cosigned(ctx, text, n.cosignHere)
	if err != nil {
		return nil, errInternal(err)
	}
	lines := []string{own}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, v := range n.others() {
		if !n.peers.Up(v.RaftID) {
			continue
		}
		wg.Go(func() {
			line, err := n.askCosign(ctx, v.RaftID, text)
			if err != nil {
				n.cfg.Logger.Warn("a peer did not sign the audit checkpoint", "layer", 7, "peer", v.NodeID, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		})
	}
	wg.Wait()
	signed := []byte(text + "\n" + strings.Join(lines, ""))
	return signed, n.keepCheckpoint(signed)
}

// keepCheckpoint keeps the last one beside the hashes.
func (n *core) keepCheckpoint(signed []byte) error {
	path := filepath.Join(n.trails.dir, "checkpoint")
	n.trails.kept.Lock()
	defer n.trails.kept.Unlock()
	if err := n.trails.fs.Replace(path, signed); err != nil { // a copy: who asked has it, and the next one replaces it
		return errInternal(err)
	}
	return nil
}

// checkpointNow is the control leader's, once in a while.
func (n *core) checkpointNow() {
	ctx, cancel := context.WithTimeout(n.ctx, callTimeout)
	defer cancel()
	fresh := false
	signed := map[uint32]uint64{}
	for _, h := range n.trails.signer.Last() {
		signed[h.Shard] = h.Size
	}
	for shard := range n.shards {
		h, err := n.treeHead(ctx, shard)
		fresh = fresh || err == nil && h.Size > signed[shard]
	}
	if !fresh {
		return
	}
	if _, err := n.Checkpoint(ctx); err != nil && ctx.Err() == nil {
		n.cfg.Logger.Warn("no audit checkpoint", "layer", 7, "error", err)
	}
}

// askCosign gets a peer's signature, checked.
func (n *core) askCosign(ctx context.Context, id uint64, text string) (string, error) {
	return n.cosigned(ctx, text, func(ctx context.Context, q cosignRequest) (cosignAnswer, error) {
		a, err := callPeer[cosignRequest, cosignAnswer](ctx, n, id, methodCosign, q)
		if err != nil || a.Line == "" {
			return a, err
		}
		v, err := note.NewVerifier(a.Key)
		if err == nil {
			_, err = note.Open([]byte(text+"\n"+a.Line), note.VerifierList(v))
		}
		return a, err
	})
}

// cosignRounds is how often proofs are brought: what was signed last may be
// another checkpoint by then.
const cosignRounds = 4

// cosigned has a checkpoint signed, and brings the proofs that are wanted.
func (n *core) cosigned(ctx context.Context, text string, sign func(context.Context, cosignRequest) (cosignAnswer, error)) (string, error) {
	q := cosignRequest{Text: text}
	for range cosignRounds {
		a, err := sign(ctx, q)
		if err != nil || a.Line != "" {
			return a.Line, err
		}
		q.Proofs = q.Proofs[:0]
		for shard, from := range a.Want {
			p, err := n.consistency(ctx, shard, from, text)
			if err != nil {
				return "", err
			}
			q.Proofs = append(q.Proofs, p)
		}
	}
	return "", errors.New("other checkpoints are signed all the time")
}

// consistency proves that a checkpoint's head of a shard extends from.
func (n *core) consistency(ctx context.Context, shard uint32, from uint64, text string) (proof.ConsistencyProof, error) {
	c, err := proof.ParseCheckpoint(text)
	if err != nil {
		return proof.ConsistencyProof{}, err
	}
	head, ok := c.Head(shard)
	if !ok || from > head.Size {
		return proof.ConsistencyProof{}, fmt.Errorf("shard %d from %d: not within the checkpoint", shard, from)
	}
	return atHolder(ctx, n, shard, methodLinks, shardQuestion{Shard: shard, From: from, To: head.Size}, n.linksHere)
}

// cosignHere signs what agrees with this node's own replicas or, for a shard
// that has none here, with a proof; which proofs it wants it says at once.
func (n *core) cosignHere(ctx context.Context, q cosignRequest) (cosignAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, cosignWait)
	defer cancel()
	want, gaps := map[uint32]uint64{}, map[uint32]bool{}
	line, err := n.trails.signer.Sign(q.Text, func(last, head proof.Head) error {
		switch {
		case n.store.Journal(head.Shard) != nil && !n.trails.off:
			if err := n.agreesHere(ctx, last, head); !errors.Is(err, trail.ErrGap) {
				return err
			}
			if last == head {
				return nil
			}
			if err := n.agreesHere(ctx, head, head); err != nil {
				return err
			}
			gaps[head.Shard] = true // what was signed last is from before this journal's beginning
		case head.Size < last.Size:
			return errors.New("it is shorter than the one signed last")
		case last.Size == 0 || last == head:
			return nil
		}
		for i := range q.Proofs {
			if q.Proofs[i].Shard == head.Shard && q.Proofs[i].From == last.Size {
				return q.Proofs[i].Check(last, head)
			}
		}
		n.wantProofs(&q, want, gaps)
		return errors.New("a proof is wanted")
	})
	if len(want) > 0 {
		return cosignAnswer{Want: want}, nil
	}
	if err != nil {
		return cosignAnswer{}, err
	}
	return cosignAnswer{Line: line, Key: n.trails.signer.Key()}, nil
}

// wantProofs lists the shards without a replica here, and what was signed of
// them last.
func (n *core) wantProofs(q *cosignRequest, want map[uint32]uint64, gaps map[uint32]bool) {
	c, err := proof.ParseCheckpoint(q.Text)
	if err != nil {
		return // it was parsed before
	}
	last := map[uint32]proof.Head{}
	for _, h := range n.trails.signer.LastLocked() {
		last[h.Shard] = h
	}
	for _, h := range c.Shards {
		if l := last[h.Shard]; l.Size > 0 && l != h && (n.store.Journal(h.Shard) == nil || n.trails.off || gaps[h.Shard]) {
			want[h.Shard] = l.Size
		}
	}
}

// agreesHere compares two heads with this node's own tree: both have to be
// its beginnings.
func (n *core) agreesHere(ctx context.Context, last, head proof.Head) error {
	for {
		l, err := n.trail(head.Shard)
		if err != nil {
			return err
		}
		if l.Head().Size >= max(head.Size, last.Size) {
			for _, h := range []proof.Head{last, head} {
				mine, err := l.HeadAt(h.Size)
				if err != nil {
					return err
				}
				if mine.Root != h.Root {
					return fmt.Errorf("%d records give another root here", h.Size)
				}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return errBehind
		case <-time.After(deskInterval):
		}
	}
}

// AuditKeys are the public keys of all nodes that ever were, a line each;
// those of nodes that are no more are commented out.
func (n *core) AuditKeys(context.Context) (string, error) {
	var b strings.Builder
	n.control.view(func(c *ledger.Control) {
		here := map[uint64]bool{}
		for _, x := range c.Nodes() {
			here[x.RaftID] = true
		}
		for _, k := range c.Keys() {
			if !here[k.RaftID] {
				b.WriteString(proof.Removed)
			}
			b.WriteString(k.Key + "\n")
		}
	})
	return b.String(), nil
}

// ProveRecord proves one record against a checkpoint made for it.
func (n *core) ProveRecord(ctx context.Context, shard uint32, seq uint64) (proof.RecordProof, error) {
	if shard >= n.shards {
		return proof.RecordProof{}, errNoShard(shard)
	}
	have, err := n.treeHead(ctx, shard)
	if err != nil {
		return proof.RecordProof{}, err
	}
	if seq == 0 || seq > have.Size {
		return proof.RecordProof{}, api.Errorf(404, 7, "no_record", api.RetryNo, "shard %d has records 1 to %d here", shard, have.Size)
	}
	signed, c, err := n.checkpointParsed(ctx)
	if err != nil {
		return proof.RecordProof{}, err
	}
	head, _ := c.Head(shard)
	x, err := atHolder(ctx, n, shard, methodLeaf, shardQuestion{Shard: shard, From: seq, To: head.Size}, n.leafHere)
	if err != nil {
		return proof.RecordProof{}, err
	}
	rec, err := ledger.DecodeRecord(x.Body)
	if err == nil {
		err = tlog.CheckRecord(x.Path, int64(head.Size), head.Root, int64(seq-1), proof.Leaf(x.Body))
	}
	if err != nil {
		return proof.RecordProof{}, errCorrupt(&api.BadRecord{Shard: shard, Seq: seq, Reason: err.Error()})
	}
	return proof.NewRecordProof(x.Body, rec, head.Size, x.Path, signed), nil
}

// checkpointParsed makes a checkpoint, as it is signed and as it reads.
func (n *core) checkpointParsed(ctx context.Context) ([]byte, proof.Checkpoint, error) {
	signed, err := n.Checkpoint(ctx)
	if err != nil {
		return nil, proof.Checkpoint{}, err
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	c, err := proof.ParseCheckpoint(text + "\n")
	if err != nil {
		return nil, c, errInternal(err)
	}
	return signed, c, nil
}

// ProveConsistency proves that a shard's log of now begins with what it was.
func (n *core) ProveConsistency(ctx context.Context, shard uint32, from uint64) (proof.ConsistencyProof, error) {
	if shard >= n.shards {
		return proof.ConsistencyProof{}, errNoShard(shard)
	}
	_, c, err := n.checkpointParsed(ctx)
	if err != nil {
		return proof.ConsistencyProof{}, err
	}
	p, err := n.consistency(ctx, shard, from, c.Text())
	if err != nil {
		return p, api.Errorf(422, 7, "no_proof", api.RetryNo, "%v", err)
	}
	return p, nil
}
