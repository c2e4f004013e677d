package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/quorate/quorate/bench"
)

// proposeTimeout is far above any latency that is measured: a proposal that runs into it ends the run.
const proposeTimeout = 20 * time.Second

// dragonboatNote says how it is configured. Its documentation recommends the defaults of the expert settings, CheckQuorum,
// elections an order of magnitude above heartbeats, and to make proposals from many goroutines. Its snapshots are off, so
// that nothing but the log is written; Quorate's state checkpoints and truncation are on.
const dragonboatNote = "v4 in the same shape: three processes, its Pebble log with fsync (its default), in-memory state machine that counts, snapshots off, default expert settings"

// dragonboatNode is one process of the group.
func dragonboatNode(args []string) error {
	a, err := bench.ParseGroupArgs(args)
	if err != nil {
		return err
	}
	for _, name := range []string{"raft", "rsm", "transport", "grpc", "dragonboat", "logdb", "raftpb", "config", "settings", "registry"} {
		logger.GetLogger(name).SetLevel(logger.ERROR) // its standard output is the harness's
	}
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir: a.Dir, RaftAddress: a.Addrs[a.Index], RTTMillisecond: 50, Expert: config.GetDefaultExpertConfig(),
	})
	if err != nil {
		return err
	}
	defer host.Close()
	members := map[uint64]dragonboat.Target{}
	for i, addr := range a.Addrs {
		members[uint64(i)+1] = addr
	}
	for shard := range a.Shards {
		err := host.StartReplica(members, false, func(uint64, uint64) statemachine.IStateMachine { return new(counter) }, config.Config{
			ReplicaID: uint64(a.Index) + 1, ShardID: uint64(shard) + 1, ElectionRTT: 20, HeartbeatRTT: 2, CheckQuorum: true, PreVote: true,
		})
		if err != nil {
			return err
		}
	}
	return bench.ServeProposer(context.Background(), os.Stdin, os.Stdout, a.Index, len(a.Addrs), dragonboatProposer{host, a})
}

// counter is its state machine, the same as Quorate's.
type counter struct{ commands, bytes uint64 }

func (c *counter) Update(e statemachine.Entry) (statemachine.Result, error) {
	c.commands++
	c.bytes += uint64(len(e.Cmd))
	return statemachine.Result{Value: c.commands}, nil
}

func (c *counter) Lookup(any) (any, error) { return c.commands, nil }

func (c *counter) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	return binary.Write(w, binary.LittleEndian, []uint64{c.commands, c.bytes})
}

func (c *counter) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	v := []uint64{0, 0}
	err := binary.Read(r, binary.LittleEndian, v)
	c.commands, c.bytes = v[0], v[1]
	return err
}

func (*counter) Close() error { return nil }

type dragonboatProposer struct {
	host *dragonboat.NodeHost
	args bench.GroupArgs
}

func (p dragonboatProposer) Leads() []uint32 {
	var led []uint32
	for shard := range p.args.Shards {
		if id, _, ok, err := p.host.GetLeaderID(uint64(shard) + 1); err == nil && ok && id == uint64(p.args.Index)+1 {
			led = append(led, uint32(shard))
		}
	}
	return led
}

func (p dragonboatProposer) Transfer(shard uint32, to int) error {
	return p.host.RequestLeaderTransfer(uint64(shard)+1, uint64(to)+1)
}

// Pipeline: proposals are asynchronous, their answers awaited in order by a goroutine of the pipeline's own.
func (p dragonboatProposer) Pipeline(shard uint32) (func([][]byte, func(error)), func()) {
	type asked struct {
		rs   *dragonboat.RequestState
		done func(error)
	}
	session := p.host.GetNoOPSession(uint64(shard) + 1)
	waiting := make(chan asked, 1024)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for a := range waiting {
			r := <-a.rs.ResultC()
			var err error
			if !r.Completed() {
				err = fmt.Errorf("dragonboat: proposal not completed: timeout %v, dropped %v, rejected %v, terminated %v", r.Timeout(), r.Dropped(), r.Rejected(), r.Terminated())
			}
			a.rs.Release()
			a.done(err)
		}
	}()
	propose := func(commands [][]byte, done func(error)) {
		for _, command := range commands {
			rs, err := proposeRetrying(p.host, session, command)
			if err != nil {
				done(err)
				continue
			}
			waiting <- asked{rs, done}
		}
	}
	return propose, func() {
		close(waiting)
		<-ended
	}
}

// proposeRetrying waits while the queue of the shard is full, as its documentation says to.
func proposeRetrying(host *dragonboat.NodeHost, s *client.Session, command []byte) (*dragonboat.RequestState, error) {
	for deadline := time.Now().Add(proposeTimeout); ; {
		rs, err := host.Propose(s, command, proposeTimeout)
		if err == nil || !errors.Is(err, dragonboat.ErrSystemBusy) || time.Now().After(deadline) {
			return rs, err
		}
		time.Sleep(100 * time.Microsecond) // it says busy and gives no event for the contrary
	}
}
