package raftstore

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// countedFile counts writes, and fails those from a given one on.
type countedFile struct {
	vfs.File
	writes, failFrom int
}

var errTestWrite = errors.New("no room")

func (f *countedFile) Write(p []byte) (int, error) {
	if f.writes++; f.failFrom > 0 && f.writes >= f.failFrom {
		return 0, errTestWrite
	}
	return f.File.Write(p)
}

func gathered(t *testing.T, fs vfs.FS, failFrom int) (*countedFile, vfs.File) {
	t.Helper()
	f, err := fs.Create("a.sst", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	c := &countedFile{File: f, failFrom: failFrom}
	return c, gatherInto(c)
}

// TestGathered: a table's file holds what was written, in few writes, around the limit; a synced one also after a crash.
func TestGathered(t *testing.T) {
	for _, size := range []int{0, 1, gatherBytes - 1, gatherBytes, gatherBytes + 1, 5*gatherBytes + 7} {
		fs := vfs.NewCrashableMem()
		c, f := gathered(t, fs, 0)
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i * 7 >> 3)
		}
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 4093)
			if m, err := f.Write(rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if _, err := f.SyncTo(int64(size)); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Size() != int64(size) {
			t.Fatalf("%d bytes: stat %v, %v", size, info, err)
		}
		if err := errors.Join(f.Sync(), syncDir(fs, "")); err != nil {
			t.Fatal(err)
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for name, fs := range map[string]vfs.FS{"closed": fs, "crashed": crashed} {
			r, err := fs.Open("a.sst")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes where %d were written: %v", name, len(got), size, err)
			}
		}
		if most := size/gatherBytes + 1; c.writes > most {
			t.Errorf("%d bytes in %d writes, at most %d", size, c.writes, most)
		}
	}
}

// TestGatheredWriteFails: after a failed write neither a sync nor a close of the file succeeds.
func TestGatheredWriteFails(t *testing.T) {
	for _, w := range []struct{ failFrom, bytes int }{{1, 1}, {1, gatherBytes + 1}, {2, gatherBytes + 1}, {2, 2*gatherBytes + 1}} {
		c, f := gathered(t, vfs.NewMem(), w.failFrom)
		_, err := f.Write(make([]byte, w.bytes))
		if want := w.bytes > w.failFrom*gatherBytes; errors.Is(err, errTestWrite) != want {
			t.Fatalf("%d bytes, from write %d on: %v", w.bytes, w.failFrom, err)
		}
		for name, call := range map[string]func() error{"sync": f.Sync, "sync data": f.SyncData} {
			if err := call(); !errors.Is(err, errTestWrite) {
				t.Errorf("%s after a failed write: %v", name, err)
			}
		}
		if err := f.Close(); !errors.Is(err, errTestWrite) {
			t.Errorf("close after a failed write: %v", err)
		}
		if c.writes != w.failFrom {
			t.Errorf("%d writes, want %d: none after the failed one", c.writes, w.failFrom)
		}
	}
}

// TestTablesAreGathered: those of both databases and the state's own, and nothing else.
func TestTablesAreGathered(t *testing.T) {
	fs := &gatherFS{FS: vfs.NewMem()}
	for name, want := range map[string]bool{"000012.sst": true, "000012.log": false, "MANIFEST-000001": false, "marks": false} {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, is := f.(*gatherFile); is != want {
			t.Errorf("%s: gathered %v, want %v", name, is, want)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
