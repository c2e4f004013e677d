package raftstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// aheadLog opens a log database in dir, and finds its only write-ahead log.
func aheadLog(t *testing.T, dir string) (*pebble.DB, string) {
	t.Helper()
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	db, _, err := openPebble("log", dir, nil, cache, logOptions(4<<20), testDiscard, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("logs %q, %v", names, err)
	}
	return db, names[len(names)-1]
}

func sizeOf(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A log that was cut off by a crash ends in zeros: all that was synced is read again, and it goes on from there.
func TestLogEndsInZeros(t *testing.T) {
	dir := t.TempDir()
	db, name := aheadLog(t, dir)
	for i := range 100 {
		if err := db.Set(fmt.Append(nil, "key-", i), []byte("value"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if got := sizeOf(t, name); got != aheadBytes {
		t.Errorf("the log has %d bytes, want %d", got, int64(aheadBytes))
	}
	crashed := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // after the crash, and after a clean end
		db, _ = aheadLog(t, crashed)
		for i := range 100 {
			v, closer, err := db.Get(fmt.Append(nil, "key-", i))
			if err != nil || string(v) != "value" {
				t.Fatalf("key %d: %q, %v", i, v, err)
			}
			closer.Close()
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Zeros come before the write that needs them, for writes up to aheadWrite, and never over what is there.
func TestAheadOfWhat(t *testing.T) {
	dir := t.TempDir()
	fs := aheadFS{vfs.Default}
	create := func(name string, category vfs.DiskWriteCategory) vfs.File {
		f, err := fs.Create(filepath.Join(dir, name), category)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	write := func(f vfs.File, n int) {
		t.Helper()
		b := make([]byte, n)
		for i := range b {
			b[i] = 0xff
		}
		if k, err := f.Write(b); k != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", k, n, err)
		}
	}
	small, large, other := create("small", walCategory), create("large", walCategory), create("other", "else")
	write(small, aheadWrite)
	write(large, aheadWrite+1)
	write(other, 1)
	for name, want := range map[string]int64{"small": aheadBytes, "large": aheadWrite + 1, "other": 1} {
		if got := sizeOf(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s: %d bytes, want %d", name, got, want)
		}
	}
	for written := aheadWrite; written <= aheadBytes; written += 1000 {
		write(small, 1000)
	}
	b, err := os.ReadFile(filepath.Join(dir, "small"))
	if err != nil || len(b) != 2*aheadBytes {
		t.Fatalf("%d bytes, want %d: %v", len(b), 2*aheadBytes, err)
	}
	end := aheadWrite + (aheadBytes-aheadWrite)/1000*1000 + 1000
	for i, c := range b {
		if (c != 0) != (i < end) {
			t.Fatalf("byte %d is %#x, written were %d", i, c, end)
		}
	}
}
