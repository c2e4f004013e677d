package ledger

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// benchLog is a prepared log of lifecycles: submit, complete.
func benchLog(lifecycles int, keyed bool) [][]byte {
	cmds := make([][]byte, 0, 2*lifecycles)
	window := 512 // open at a time
	var pending []TaskID
	done := func(id TaskID) {
		c := Complete{ID: id, Agent: "agent-" + fmt.Sprint(id[15]%8), Epoch: 1 << 20, Result: []byte(`{"ok":true,"findings":0}`),
			AssignedMillis: 1_790_000_000_000, StartedMillis: 1_790_000_000_001, Node: "node-1"}
		cmds = append(cmds, c.Append(nil))
	}
	for i := range lifecycles {
		id := NewTaskID(1, 1_790_000_000_000+int64(i/100), mix(uint64(i), 1))
		s := testSpec()
		s.Input = []byte(`{"package":"net/http","flags":["-race"],"commit":"0123456789abcdef0123456789abcdef01234567"}`)
		s.SubmittedBy = "bench"
		if keyed {
			s.Key = fmt.Sprintf("bench-key-%08d", i)
		}
		cmds = append(cmds, submitOf(id, s).Append(nil))
		if pending = append(pending, id); len(pending) == window {
			for _, p := range pending {
				done(p)
			}
			pending = pending[:0]
		}
	}
	for _, p := range pending {
		done(p)
	}
	return cmds
}

// BenchmarkLifecycle is one submit and one complete applied, audit records and
// chain included; with freeze, what a checkpoint every 16384 of them adds.
func BenchmarkLifecycle(b *testing.B) {
	const lifecycles = 1 << 16
	for _, run := range []struct {
		keyed  bool
		format uint8
	}{{false, recordVersion1}, {false, recordVersion2}, {true, recordVersion2}} {
		keyed := run.keyed
		log := benchLog(lifecycles, keyed)
		for _, every := range []int{0, 1 << 14} {
			b.Run(fmt.Sprintf("keyed=%v/records=%d/freeze=%d", keyed, run.format, every), func(b *testing.B) {
				b.ReportAllocs()
				var journal int64
				var s *Tasks
				events := make([]Event, 0, 16)
				for i := 0; i < b.N; i++ {
					k := i % lifecycles
					if k == 0 {
						b.StopTimer()
						s = NewTasks(1, newMemCold(), func(r []byte) { journal += int64(len(r)) })
						s.Apply(At{}, (&AuditFormat{Version: run.format}).Append(nil), nil)
						b.StartTimer()
					}
					at := At{Index: uint64(i), Term: 1, TimeMillis: 1_790_000_000_000 + int64(i/100)}
					for _, c := range log[2*k : 2*k+2] {
						var o Outcome
						if o, events = s.Apply(at, c, events[:0]); o.Code != OK {
							b.Fatal(o)
						}
					}
					if every > 0 && (k+1)%every == 0 {
						s.Freeze()
						s.Thaw()
					}
				}
				b.ReportMetric(float64(journal)/float64(b.N), "journal-B/op")
			})
		}
	}
}

// BenchmarkFreeze is what a checkpoint that covers 32768 lifecycles costs, and
// the longest pause in it when it is taken in parts of 512 tasks.
func BenchmarkFreeze(b *testing.B) {
	log := benchLog(1<<15, true)
	for _, what := range []string{"freeze", "thaw", "parts"} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			var longest time.Duration
			for range b.N {
				b.StopTimer()
				s := NewTasks(1, newMemCold(), func([]byte) {})
				for i, c := range log {
					s.Apply(At{Index: uint64(i), TimeMillis: 1_790_000_000_000}, c, nil)
				}
				switch what {
				case "freeze":
					b.StartTimer()
					s.Freeze()
				case "thaw":
					s.Freeze()
					b.StartTimer()
					s.Thaw()
				default:
					b.StartTimer()
					longest = max(longest, inParts(s, 512))
				}
			}
			if longest > 0 {
				b.ReportMetric(float64(longest.Microseconds()), "µs-longest")
			}
		})
	}
}

// inParts takes a checkpoint in parts of n tasks and says what the longest took.
func inParts(s *Tasks, n int) (longest time.Duration) {
	start := time.Now()
	lap := func(more bool) bool {
		now := time.Now()
		longest, start = max(longest, now.Sub(start)), now
		return more
	}
	s.BeginFreeze()
	lap(true)
	for more := true; more; {
		_, _, more = s.FreezeSome(n)
		lap(more)
	}
	for lap(s.ThawSome(n)) {
	}
	return longest
}

// BenchmarkSubmitBeside is a submit with a million tasks open already.
func BenchmarkSubmitBeside(b *testing.B) {
	s := NewTasks(1, newMemCold(), func([]byte) {})
	spec := testSpec()
	var cmd []byte
	id := func(i int) TaskID { return NewTaskID(1, 1_790_000_000_000+int64(i/50), mix(uint64(i), 2)) }
	for i := range 1 << 20 {
		cmd = submitOf(id(i), spec).Append(cmd[:0])
		s.Apply(At{Index: uint64(i)}, cmd, nil)
	}
	cmd = submitOf(id(1), spec).Append(cmd[:0])
	b.ReportAllocs()
	events := make([]Event, 0, 1)
	b.ResetTimer()
	for i := range b.N {
		n := id(1<<20 + i)
		copy(cmd[2:], n[:])
		binary.LittleEndian.PutUint64(cmd[18:], uint64(i))
		s.Apply(At{Index: uint64(i)}, cmd, events[:0])
	}
}
