package node

import (
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
)

// TestDiskParts: every file counts once, in its part, wherever the archive is.
func TestDiskParts(t *testing.T) {
	fs := files.FS{FS: vfs.NewMem()}
	for path, size := range map[string]int{
		"/data/log/1.log": 1, "/data/state/2.sst": 2, "/data/staging/3.sst": 4, "/data/journal/0001.qj": 8, "/data/audit/0001.hashes": 16, "/data/audit/0001.index": 32,
		"/data/archive/a.zst": 64, "/data/marks": 128, "/data/removed/0002.qj.0": 256, "/else/b.zst": 512,
	} {
		if err := fs.MkdirAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if err := fs.Replace(path, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	want := api.DiskParts{Log: 1, State: 6, Journal: 8, Hashes: 16, Index: 32, Archive: 64, Other: 384, Total: 511}
	if p, err := measureDisk(fs, "/data", "/data/archive"); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	want.Archive, want.Other, want.Total = 512, want.Other+64, want.Total+512
	if p, err := measureDisk(fs, "/data", "/else"); err != nil || p != want {
		t.Errorf("elsewhere: %+v, %v", p, err)
	}
	if p, err := measureDisk(fs, "/nothing", "/nor/here"); err != nil || p != (api.DiskParts{}) {
		t.Errorf("nothing: %+v, %v", p, err)
	}
}
