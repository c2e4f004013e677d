package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/form"
)

// A node that found a formed cluster is a gateway to it, and asks to be a
// member until it is one: `quorate node add` admits it by its node ID. It
// begins as a learner of the control shard and serves by itself once it has
// its own joining in its replica of that shard.

// joinLoop asks the members until this node is one, and switches it over.
func (n *Node) joinLoop(id form.Identity) {
	last := ""
	for n.ctx.Err() == nil {
		err := n.askToJoin(id)
		if c := n.core.Load(); c != nil && c.serving() {
			n.gateway.Store(false)
			c.enter(n.APIAddr(), n.GossipAddr(), Version())
			n.setMeta(id)
			n.gossipChanged()
			n.cfg.Logger.Info("this node is a member now", "layer", 5)
			return
		}
		text := ""
		if err != nil {
			text = err.Error()
			var refused *api.Error
			if errors.As(err, &refused) && refused.Code == "node_removed" {
				n.fail(errRetired)
				return
			}
		}
		if text != "" && text != last {
			n.cfg.Logger.Info("this node is not a member; it passes requests on", "layer", 5, "reason", text)
		}
		last = text
		n.joinWaits.Store(&text)
		t := time.NewTimer(joinPause)
		select {
		case <-t.C:
		case <-n.changed: // gossip knows more members, perhaps
			t.Stop()
		case <-n.ctx.Done():
			t.Stop()
		}
	}
}

// askToJoin asks each member once, and opens this node's store when one lets
// it in.
func (n *Node) askToJoin(id form.Identity) error {
	j := api.JoinRequest{ClusterID: id.ClusterID.String(), RaftID: fmt.Sprintf("%016x", id.RaftID), NodeID: id.NodeID,
		PeerAddr: n.PeerAddr(), APIAddr: n.APIAddr(), GossipAddr: n.GossipAddr(), Version: Version()}
	err := errors.New("no member of the cluster is known yet")
	for _, m := range n.members() {
		if m.Meta.ClusterID != id.ClusterID || m.Meta.Gateway || m.NodeID == id.NodeID || m.Meta.APIAddr == "" {
			continue
		}
		var a api.JoinAnswer
		if a, err = n.postJoin("http://"+m.Meta.APIAddr, j); err != nil {
			var refused *api.Error
			if errors.As(err, &refused) && refused.Retry == api.RetryNo {
				return err
			}
			continue
		}
		return n.letIn(id, a)
	}
	return err
}

const joinTimeout = 5 * time.Second

func (n *Node) postJoin(base string, j api.JoinRequest) (api.JoinAnswer, error) {
	var a api.JoinAnswer
	body, err := json.Marshal(j)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(n.ctx, joinTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/nodes/join", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		e := &api.Error{}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			return a, fmt.Errorf("%s answers %s", base, resp.Status)
		}
		return a, e
	}
	return a, json.Unmarshal(b, &a)
}

// letIn opens the store, if that is not done, and notes whom to talk to.
func (n *Node) letIn(id form.Identity, a api.JoinAnswer) error {
	var contacts []nodeRef
	for _, m := range a.Members {
		raftID, err := strconv.ParseUint(m.RaftID, 16, 64)
		if err != nil {
			return fmt.Errorf("join answer: raft ID %q", m.RaftID)
		}
		if raftID != id.RaftID {
			contacts = append(contacts, nodeRef{raftID, m.NodeID, m.PeerAddr})
		}
	}
	c := n.core.Load()
	if c == nil {
		if err := n.join(id); err != nil {
			n.fail(err)
			return err
		}
		c = n.core.Load()
		c.contacts.Store(&contacts)
		c.start()
		n.cfg.Logger.Info("admitted: this node gets its replica of the control shard", "layer", 5)
		return nil
	}
	c.contacts.Store(&contacts)
	return nil
}

// wasMember says that a node that joined has been let in before: it has a
// store.
func (n *Node) wasMember() bool {
	there, _ := files.FS{FS: n.cfg.FS}.Exists(filepath.Join(n.cfg.DataDir, "log")) // what can't be read fails in the store
	return there
}

// admit says who may be a peer: the members, each with its own node ID.
func (n *Node) admit(raftID uint64, nodeID string) error {
	c := n.core.Load()
	if c == nil {
		return errors.New("this node is not part of a cluster yet")
	}
	if c.isRemoved(raftID) {
		return fmt.Errorf("node %q was removed from the cluster and never returns", nodeID)
	}
	for _, v := range c.nodes() {
		if v.RaftID == raftID && v.NodeID == nodeID {
			return nil
		}
		if v.NodeID == nodeID {
			return fmt.Errorf("node ID %q belongs to another data directory", nodeID)
		}
	}
	return fmt.Errorf("node %q is no member of this cluster", nodeID)
}
