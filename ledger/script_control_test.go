package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func (s *script) controlCommand(t *testing.T, name string) Command {
	agent := s.text("agent", "")
	node := Node{RaftID: uint64(s.num("raft", 0)), NodeID: s.text("node", ""), PeerAddr: s.text("peer", ""), APIAddr: s.text("api", ""),
		GossipAddr: s.text("gossip", ""), Version: s.text("version", "")}
	switch name {
	case "cluster-init":
		c := &ClusterInit{ClusterID: [16]byte{15: byte(s.num("cluster", 1))}, Name: s.text("name", ""), Shards: uint32(s.num("shards", 0))}
		for _, m := range s.list2("members") {
			raft, id, _ := strings.Cut(m, ":")
			c.Members = append(c.Members, Node{RaftID: must(strconv.ParseUint(raft, 10, 64)), NodeID: id})
		}
		return c
	case "node-up":
		return (*NodeUp)(&node)
	case "node-key":
		return &NodeKey{RaftID: node.RaftID, Key: s.text("key", "")}
	case "node-remove":
		return &NodeRemove{RaftID: node.RaftID, By: s.text("by", "")}
	case "placement-init", "admit", "uninvite", "join", "node-state", "retire":
		return s.memberCommand(name, node)
	case "register":
		c := &AgentRegister{ID: agent, MaxTasks: uint32(s.num("max", 0)), Manifest: []byte(s.text("manifest", `{"agent_id":"`+agent+`"}`))}
		for _, can := range s.list2("can") {
			action, target, _ := strings.Cut(can, ":")
			c.Capabilities = append(c.Capabilities, CapabilitySpec{Action: action, Target: target, ConfidenceMillis: uint32(s.num("confidence", 500))})
		}
		return c
	case "state":
		return &AgentState{ID: agent, State: AgentStatus(s.num("state", 0)), Reason: s.text("reason", ""), Incarnation: uint64(s.num("incarnation", 0))}
	case "deregister":
		return &AgentDeregister{ID: agent}
	case "pack-put":
		return &PackPut{Name: s.text("pack", ""), Text: []byte(s.text("text", "rules")), By: s.text("by", "")}
	case "pack-remove":
		return &PackRemove{Name: s.text("pack", ""), By: s.text("by", "")}
	case "bind":
		return &FleetBind{Fleet: s.text("fleet", ""), Packs: s.list2("packs"), By: s.text("by", "")}
	case "retention":
		return &FleetRetention{Fleet: s.text("fleet", ""), Remove: s.args["remove"] != "", TaskMillis: s.num("tasks", 0), KeyMillis: s.num("keys", 0), By: s.text("by", "")}
	case "records":
		return &FleetRecords{Fleet: s.text("fleet", ""), Remove: s.args["remove"] != "", Millis: s.num("live", 0), Drop: s.args["drop"] != "", By: s.text("by", "")}
	case "submit": // not of this shard
		return &Due{}
	}
	return nil
}

// list2 splits a parenthesized argument.
func (s *script) list2(name string) []string {
	if s.args[name] == "" {
		return nil
	}
	return strings.Split(s.args[name], ",")
}

func (s *script) runControl(t *testing.T, cmd string) string {
	var b strings.Builder
	if c := s.controlCommand(t, cmd); c != nil {
		s.index++
		o, events := s.control.Apply(At{Index: s.index, TimeMillis: s.now}, c.Append(nil), nil)
		b.WriteString(s.answer(o, nil))
		for _, e := range events {
			fmt.Fprintf(&b, "event %s %s -> %s at %d: %s\n", e.ID, orNone(e.From.String()), e.State, e.Index, e.Reason)
		}
		return b.String()
	}
	switch cmd {
	case "cluster":
		fmt.Fprintf(&b, "%+v\n", s.control.Cluster())
	case "nodes":
		for _, n := range s.control.Nodes() {
			fmt.Fprintf(&b, "%d %s peer=%s api=%s gossip=%s version=%s\n", n.RaftID, n.NodeID, n.PeerAddr, n.APIAddr, n.GossipAddr, n.Version)
		}
		fmt.Fprintf(&b, "removed: %v\n", s.control.Removed())
	case "members":
		s.printMembers(&b)
	case "packs":
		for _, p := range s.control.Packs() {
			fmt.Fprintf(&b, "%s %d bytes by %s at %d\n", p.Name, len(p.Text), p.By, p.Millis)
		}
		for _, x := range s.control.Bindings() {
			fmt.Fprintf(&b, "%s bound to %v\n", x.Fleet, x.Packs)
		}
	case "retentions", "record-retentions":
		s.retentions(&b)
	case "agents":
		for _, a := range s.control.Agents() {
			fmt.Fprintf(&b, "%s %s\n", a.ID, a.State)
		}
	case "agent":
		a, ok := s.control.Agent(s.args["agent"])
		fmt.Fprintf(&b, "found=%v %s manifest=%s can=%v max=%d reason=%q incarnation=%d registered=%d updated=%d\n", ok, a.State, a.Manifest, a.Capabilities,
			a.MaxTasks, a.Reason, a.Incarnation, a.RegisteredMillis, a.UpdatedMillis)
	case "checkpoint":
		puts, deletes, meta := s.control.Freeze()
		if err := uniqueKeys(puts, deletes); err != nil {
			t.Fatal(err)
		}
		s.cold.write(puts, deletes)
		s.control.Thaw()
		s.meta = meta
		for _, kv := range puts {
			fmt.Fprintf(&b, "put %q\n", kv.Key)
		}
		for _, k := range deletes {
			fmt.Fprintf(&b, "delete %q\n", k)
		}
	case "restart":
		before, head := s.control.Digest(), s.control.Head()
		again := NewControl(s.cold, s.journal.append)
		if err := again.Restore(s.meta); err != nil {
			t.Fatal(err)
		}
		if again.Digest() != before || again.Head() != head || again.NowMillis() != s.control.NowMillis() {
			t.Fatal("another state came back")
		}
		s.control = again
	default:
		t.Fatalf("no directive %q", cmd)
	}
	return b.String()
}

// retentions shows those of tasks and of records.
func (s *script) retentions(b *strings.Builder) {
	for _, p := range s.control.Retentions() {
		fmt.Fprintf(b, "%s tasks=%d keys=%d by %s at %d\n", p.Fleet, p.TaskMillis, p.KeyMillis, p.By, p.SetMillis)
	}
	for _, p := range s.control.RecordRetentions() {
		fmt.Fprintf(b, "%s records=%d drop=%v by %s at %d\n", p.Fleet, p.Millis, p.Drop, p.By, p.SetMillis)
	}
}
