package raftstore

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFullDisk: with no space left nothing more is acknowledged, the store stops and says why; with space again
// everything that was acknowledged is there.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	mem := vfs.NewCrashableMem()
	l := newLone(t, func(c *Config) {
		c.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if full.Load() && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate) {
				return syscall.ENOSPC
			}
			return nil
		}))
	})
	l.put(t, 20, 100)
	full.Store(true)
	var err error
	eventually(t, "the store stops", func() bool {
		if r := l.propose(0, "full=1"); r.Err == nil {
			t.Fatal("acknowledged on a full disk")
		}
		select {
		case err = <-l.fatal:
			return true
		default:
			return false
		}
	})
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		t.Errorf("reason: %v", err)
	}
	if err := l.store.Swap(nil).Close(); err == nil {
		t.Error("closed without an error")
	}
	full.Store(false)
	if err := l.reopen(t, mem.CrashClone(vfs.CrashCloneCfg{})); err != nil {
		t.Fatalf("with space again: %v", err)
	}
}
