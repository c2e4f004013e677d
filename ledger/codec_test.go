package ledger

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var golden = flag.Bool("golden", false, "add what is missing to testdata/*_v1.txt; what is there is never rewritten")

// fullCommands has one of each command with every field set, and one with
// none.
func fullCommands() []Command {
	id, parent := NewTaskID(3, 1_790_000_000_000, 0x0123456789abcdef), NewTaskID(4, 1_790_000_000_001, 7)
	spec := Spec{Fleet: "fleet", Action: "vet", Target: "go:net/http", Description: "über", Input: []byte(`{"a":1}`), Context: []byte(`[]`),
		Priority: PriorityCritical, Guarantee: AtLeastOnce, Key: "key", DeadlineMillis: 1_790_000_100_000, NotBeforeMillis: 1_790_000_050_000,
		After: []TaskID{parent, id}, LeaseMillis: 60_000, Retry: RetryPolicy{MaxRetries: 300, Backoff: BackoffLinear, InitialDelayMillis: 1000, MaxDelayMillis: -1},
		Reversible: true, Rollback: []byte(`{"r":1}`), Verify: []byte(`{"v":1}`), Approval: []byte(`{"p":1}`), Compliance: []byte(`{"c":1}`),
		Session: "s1", Parent: parent, SubmittedBy: "alice"}
	node := Node{RaftID: 1<<64 - 1, NodeID: "n1", PeerAddr: "127.0.0.1:7701", APIAddr: "127.0.0.1:7700", GossipAddr: "127.0.0.1:7702", Version: "v0.1.0"}
	up, join := NodeUp(node), NodeJoin(node)
	full := []Command{
		&Submit{ID: id, RequestHash: RequestHash(&spec), Spec: spec},
		&Complete{ID: id, Agent: "w1", Epoch: 1<<53 + 1, Result: []byte(`{"ok":true}`), AssignedMillis: 1_790_000_000_002, StartedMillis: 1_790_000_000_003, StolenFrom: "n2", Node: "n1"},
		&Fail{ID: id, Agent: "w1", Epoch: 1 << 63, Result: []byte(`{}`), Error: "exit status 1", Retryable: true, AssignedMillis: 1, StartedMillis: 2, StolenFrom: "n2", Node: "n1"},
		&Expire{ID: id, Agent: "w1", Epoch: 9, Reason: ReasonAgentLost},
		&Due{ID: id},
		&Timeout{ID: id},
		&Cancel{ID: id, By: "bob", Reason: "wrong"},
		&Retry{ID: id, By: "bob"},
		&Refused{ID: id, Agent: "w2", Epoch: 8, Verb: "renew", Code: StaleLease},
		&ClusterInit{ClusterID: [16]byte{1, 2, 3, 15: 16}, Name: "quorate", Shards: 5, Members: []Node{node, {RaftID: 2, NodeID: "n2"}}},
		&up,
		&NodeRemove{RaftID: 77, By: "bob"},
		&AgentRegister{ID: "w1", Manifest: []byte(`{"agent_id":"w1"}`), Capabilities: []CapabilitySpec{{Action: "vet", Target: "*", ConfidenceMillis: 930, MaxConcurrent: 4}, {Action: "lint", Target: "go"}}, MaxTasks: 8},
		&AgentState{ID: "w1", State: AgentDraining, Reason: "asked to", Incarnation: 12},
		&AgentDeregister{ID: "w1"},
		&ClusterRestored{ClusterID: [16]byte{1, 2, 3, 15: 16}, From: [16]byte{9, 15: 1}, Name: "quorate", Shards: 5,
			Members: []Node{node, {RaftID: 2, NodeID: "n2"}}, EpochFloor: 1<<53 - 1, Source: "backup of 2026-11-23"},
		&AuditFormat{Version: 2},
		&Evict{BeforeMillis: 1_790_000_000_000, IDs: []TaskID{id, parent}},
		&EvictSettled{BeforeMillis: 1_790_000_000_000, IDs: []TaskID{id, parent}},
		&FleetRetention{Fleet: "fleet", Remove: true, TaskMillis: 72 * 3600_000, KeyMillis: 24 * 3600_000, By: "bob"},
		&FleetRecords{Fleet: "fleet", Remove: true, Millis: 72 * 3600_000, Drop: true, By: "bob"},
		&Recall{Fleet: "fleet", Key: "k1", RequestHash: RequestHash(&spec), Agent: "w1", Node: "n1", Instance: "i1"},
		&Erase{ID: id, By: "bob", Reason: "request 7"},
		&NodeKey{RaftID: 7, Key: "n1.0000000000000007+01234567+AQ=="},
		&PlacementInit{Members: []uint64{1<<63 - 1, 2}},
		&NodeAdmit{NodeID: "n4", PeerAddr: "127.0.0.1:7711", By: "bob"},
		&join,
		&NodeState{RaftID: 300, State: MemberDraining, By: "bob"},
		&NodeRetire{RaftID: 1 << 40},
		&NodeUninvite{NodeID: "n4", By: "bob"},
		&PackPut{Name: "p@1", Text: []byte("pack: p"), By: "bob"},
		&PackRemove{Name: "p@1", By: "bob"},
		&FleetBind{Fleet: "fleet", Packs: []string{"p@1", "q@2"}, By: "bob"},
		&Ruled{ID: id, Fleet: "fleet", Capability: "vet:go", Guarantee: ExactlyOnce, By: "alice", Code: ComplianceRefused, Packs: "p@1,q@2", Detail: "rule r: m",
			Evidence: "input.a sha256:00", Regulations: []string{"GDPR Art. 17"}, Classification: "personal", RequestHash: RequestHash(&spec)},
	}
	full = append(full, fullTxnCommands(id, parent, spec)...)
	for _, c := range full[:len(full):len(full)] {
		full = append(full, newCommand(c.kind()))
	}
	return full
}

func TestCommandsRoundTrip(t *testing.T) {
	seen := map[kind]bool{}
	for _, c := range fullCommands() {
		seen[c.kind()] = true
		b := c.Append([]byte("before"))[len("before"):]
		got, err := DecodeCommand(b)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%T: got  %+v\nwant %+v", c, got, c)
		}
		for i := range b { // every shorter one is refused
			if _, err := DecodeCommand(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%T cut to %d of %d bytes: %v", c, i, len(b), err)
			}
		}
		if _, err := DecodeCommand(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%T with a byte behind it: %v", c, err)
		}
	}
	for k := range kind(255) {
		if (newCommand(k) != nil) != seen[k] {
			t.Errorf("kind %d has no test", k)
		}
	}
}

func TestDecodeCommandRefuses(t *testing.T) {
	ok := (&Retry{ID: NewTaskID(1, 2, 3), By: "x"}).Append(nil)
	with := func(i int, b ...byte) []byte {
		return append(append(bytes.Clone(ok[:i]), b...), ok[min(len(ok), i+len(b)):]...)
	}
	fail := (&Fail{Agent: "a"}).Append(nil)
	notBool := bytes.Clone(fail)
	notBool[len(notBool)-5] = 2
	noParent := (&Submit{}).Append(nil)
	noParent[2+16+32+3] = specHasParent
	for name, b := range map[string][]byte{
		"nothing": {}, "version 0": with(0, 0), "version 2": with(0, 2), "kind 0": with(1, 0), "unknown kind": with(1, 99),
		"long length":          append(bytes.Clone(ok[:18]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"longer length":        append(bytes.Clone(ok[:18]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02),
		"padded length":        append(bytes.Clone(ok[:18]), 0x81, 0x00, 'x'),
		"not a boolean":        notBool,
		"empty parent":         append(noParent[:2+16+32+4+6:2+16+32+4+6], append(make([]byte, 16), noParent[2+16+32+4+6:]...)...),
		"spec flag 4":          func() []byte { b := (&Submit{}).Append(nil); b[2+16+32+3] = 4; return b }(),
		"many members":         append((&ClusterInit{}).Append(nil)[:20], 0xff, 0xff, 0x03),
		"32 bits":              append((&ClusterInit{}).Append(nil)[:19], 0xff, 0xff, 0xff, 0xff, 0x10, 0),
		"records of version 3": (&AuditFormat{Version: 3}).Append(nil),
		"over the limit":       make([]byte, MaxCommandBytes+1),
	} {
		if c, err := DecodeCommand(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	big := &Complete{Result: make([]byte, MaxCommandBytes-2-16-1-1-4-1-1-1-1)}
	b := big.Append(nil)
	if len(b) != MaxCommandBytes {
		t.Fatalf("%d bytes, want the limit %d", len(b), MaxCommandBytes)
	}
	if _, err := DecodeCommand(b); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := DecodeCommand(append(b, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("one over the limit: %v", err)
	}
}

// lines reads a golden file: "name hex" each.
func lines(t *testing.T, path string) (names []string, encoded map[string][]byte) {
	t.Helper()
	encoded = map[string][]byte{}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && *golden {
		return nil, encoded
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		name, h, _ := strings.Cut(sc.Text(), " ")
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		names, encoded[name] = append(names, name), b
	}
	return names, encoded
}

// checkGolden compares what is encoded today with what was encoded once.
func checkGolden(t *testing.T, path string, now map[string][]byte, order []string, decode func(name string, b []byte) ([]byte, error)) {
	t.Helper()
	names, old := lines(t, path)
	for _, n := range names {
		again, err := decode(n, old[n])
		if err != nil || !bytes.Equal(again, old[n]) {
			t.Errorf("%s: %s of an old log: %v\nthen %x\nnow  %x", path, n, err, old[n], again)
		}
		if b, ok := now[n]; ok && !bytes.Equal(b, old[n]) {
			t.Errorf("%s: %s is encoded differently\nthen %x\nnow  %x", path, n, old[n], b)
		}
	}
	var add strings.Builder
	for _, n := range order {
		if _, ok := old[n]; !ok {
			fmt.Fprintf(&add, "%s %x\n", n, now[n])
		}
	}
	if add.Len() == 0 {
		return
	}
	if !*golden {
		t.Fatalf("%s lacks encodings; run with -golden to add:\n%s", path, add.String())
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteString(add.String()); err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCommandsV1 holds that commands of version 1 decode for ever.
func TestCommandsV1(t *testing.T) {
	now, order := map[string][]byte{}, []string{}
	for i, c := range fullCommands() {
		n := fmt.Sprintf("%T", c)[len("*ledger."):]
		if i >= len(fullCommands())/2 {
			n += "-empty"
		}
		now[n], order = c.Append(nil), append(order, n)
	}
	checkGolden(t, "testdata/commands_v1.txt", now, order, func(n string, b []byte) ([]byte, error) {
		c, err := DecodeCommand(b)
		if err != nil {
			return nil, err
		}
		if name := fmt.Sprintf("%T", c)[len("*ledger."):]; name != strings.TrimSuffix(n, "-empty") {
			return nil, fmt.Errorf("it is a %s now", name)
		}
		return c.Append(nil), nil
	})
}

func TestOutcomesRoundTrip(t *testing.T) {
	for c := OK; c < codeEnd; c++ {
		o := Outcome{Code: c, ID: NewTaskID(1, 2, 3), State: StateReady, Epoch: 1 << 60, Replayed: true, Detail: "why"}
		b := o.Append(nil)
		got, err := DecodeOutcome(b)
		if err != nil || got != o || c.String() == "" {
			t.Errorf("%v: %+v, %v", c, got, err)
		}
		for i := range b {
			if _, err := DecodeOutcome(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("cut to %d bytes: %v", i, err)
			}
		}
		b[0] = 2
		if _, err := DecodeOutcome(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("version 2: %v", err)
		}
	}
}

// TestRequestHash: what is asked counts, who asks and under which key does not.
func TestRequestHash(t *testing.T) {
	base := fullCommands()[0].(*Submit).Spec
	h := RequestHash(&base)
	same := base
	same.Key, same.SubmittedBy = "other", "mallory"
	if RequestHash(&same) != h {
		t.Error("key or submitter change the request hash")
	}
	v := reflect.ValueOf(&base).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Key" || name == "SubmittedBy" {
			continue
		}
		other := base
		reflect.ValueOf(&other).Elem().Field(i).SetZero()
		if RequestHash(&other) == h {
			t.Errorf("%s does not change the request hash", name)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range fullCommands() {
		f.Add(c.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if again := c.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%T has two encodings\n%x\n%x", c, b, again)
		}
		// Whatever decodes can be applied to either machine.
		s := NewTasks(3, newMemCold(), func([]byte) {})
		ctl := NewControl(newMemCold(), func([]byte) {})
		for i := range 2 {
			s.Apply(At{Index: uint64(i)}, b, nil)
			ctl.Apply(At{Index: uint64(i)}, b, nil)
		}
		checkInvariants(t, s)
	})
}

func FuzzDecodeRow(f *testing.F) {
	id := NewTaskID(1, 2, 3)
	s := testSpec()
	e := entry{id: id, state: StateReady, key: [16]byte{1}, agent: "w", err: "e", result: []byte("r"), spec: s.Append(nil), epoch: 300}
	f.Add(e.appendRow(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w row
		if w.decode(id, b) != nil {
			return
		}
		e := w.entry(new(names))
		if again := e.appendRow(nil); !bytes.Equal(again, b) {
			t.Fatalf("two encodings\n%x\n%x", b, again)
		}
		w.task()
	})
}
