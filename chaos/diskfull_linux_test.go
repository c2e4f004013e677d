package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
)

const (
	smallDisk   = 256 << 20 // of one node
	diskReserve = 32 << 20
	diskWait    = 60 * time.Second // for a state of the disk to have its effect
)

// smallFS mounts a file system of a known size, and returns where; "" if this process may not.
func smallFS(t *testing.T) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); errors.Is(err, syscall.EPERM) {
		return ""
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill leaves so many bytes of a file system free; 0: not one.
func fill(t *testing.T, file string, leave int64) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for {
		var s syscall.Statfs_t
		if err := syscall.Statfs(filepath.Dir(file), &s); err != nil {
			t.Fatal(err)
		}
		if leave > 0 && int64(s.Bavail)*s.Bsize <= leave {
			return
		}
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull takes the space of one node's disk away under load, first down to the reserve, then all of it. With little
// left new tasks are refused and what ends tasks goes on; with nothing left the node stops and the others go on; with
// space again it comes back, and nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	disk := smallFS(t)
	if disk == "" {
		t.Log("left out: mounting a file system wants root")
		return
	}
	c, err := proc.New(proc.Config{Binary: binary(t), Dir: t.TempDir(), Args: []string{"--disk-reserve", fmt.Sprint(diskReserve)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	small := c.Nodes()[0]
	small.Data = filepath.Join(disk, "data")
	for _, n := range c.Nodes() {
		startNode(t, n)
	}
	if err := c.AwaitFormed(t.Context()); err != nil {
		t.Fatal(err)
	}
	u := newUnderLoad(t, c)
	probe := newProber(t, u.nodes[1])
	probe.submit("")

	u.begin(t, u.nodes)

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast, diskReserve/2)
	probe.submit("disk_full")
	probe.complete()

	fill(t, ballast, 0)
	gone, cancel := context.WithTimeout(t.Context(), diskWait)
	defer cancel()
	for small.Running() {
		fill(t, ballast, 0) // what the node gave back meanwhile
		if !pause(gone, restPoll) {
			t.Fatal("a node with a full disk goes on")
		}
	}
	refused(t, small, "no space left")
	probe.submit("")

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	backAgain(t, small)
	probe.submit("")
	probe.complete()
	u.end(t, &members{t: t}, c.Nodes())
}

// prober submits tasks that only it does, and does them when it is told to.
type prober struct {
	t    *testing.T
	c    wire.Client
	open map[string]bool // acknowledged, by task ID
	keys int             // used
}

func newProber(t *testing.T, c wire.Client) *prober {
	if err := c.Register(t.Context(), "prober", "probe:disk"); err != nil {
		t.Fatal(err)
	}
	return &prober{t: t, c: c, open: map[string]bool{}}
}

// submit submits, over all shards, until the answer is as wanted: that code for some, or if it is empty an acknowledgement
// for all.
func (p *prober) submit(code string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), diskWait)
	defer cancel()
	for {
		specs := make([]api.TaskSpec, 24)
		for i := range specs {
			specs[i] = api.TaskSpec{Action: "probe", Target: "disk", LeaseSeconds: 600, Input: json.RawMessage(`{}`),
				IdempotencyKey: fmt.Sprint("probe-", p.keys+i)}
		}
		verdicts, err := p.c.Submit(ctx, specs)
		as := 0
		for _, v := range verdicts {
			if v.Error == nil {
				p.open[v.TaskID] = true
			}
			if v.Error == nil && code == "" || v.Error != nil && v.Error.Code == code {
				as++
			}
		}
		if err == nil && (code != "" || as == len(specs)) {
			p.keys += len(specs) // keys that are known are answered whatever the disk does
		}
		if err == nil && (as == len(specs) || code != "" && as > 0) {
			return
		}
		if !pause(ctx, restPoll) {
			p.t.Fatalf("submissions are not answered %q: %v %+v", code, err, verdicts)
		}
	}
}

// complete does all that is open.
func (p *prober) complete() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), diskWait)
	defer cancel()
	for len(p.open) > 0 {
		leases, err := p.c.Lease(ctx, "prober", 64, time.Second)
		if err != nil {
			p.t.Fatalf("%d are left: %v", len(p.open), err)
		}
		list := make([]api.Settlement, len(leases))
		for i, x := range leases {
			list[i] = api.Settlement{TaskID: x.TaskID, Epoch: x.Epoch, Verdict: "complete"}
		}
		verdicts, err := p.c.Settle(ctx, "prober", list)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, v := range verdicts {
			if v.Error != nil {
				p.t.Fatal(v.Error)
			}
			delete(p.open, v.TaskID)
		}
	}
}
