package form

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/internal/files"
)

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func TestIdentityIsKept(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(files.FS{}, dir)
	wantErr(t, err, ErrNoIdentity)
	first, err := Open(files.FS{}, dir, "n1", "quorate")
	if err != nil || first.NodeID != "n1" || first.RaftID == 0 || first.Incarnation != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := Create(files.FS{}, dir, "n1", "quorate"); err == nil {
		t.Fatal("created twice")
	}
	first.Promise = &Promise{ClusterID: ID{1}, Coordinator: 1 << 61, Shards: 5, Voters: []Voter{{1 << 61, "n2", "a:1"}, {first.RaftID, "n1", "b:2"}}}
	if err := first.Save(files.FS{}, dir); err != nil {
		t.Fatal(err)
	}
	again, err := Open(files.FS{}, dir, "", "")
	want := first
	want.Incarnation = 2
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Fatalf("%+v, %v; want %+v", again, err, want)
	}
	_, err = Open(files.FS{}, dir, "n2", "quorate")
	wantErr(t, err, ErrNodeID)
	_, err = Open(files.FS{}, dir, "n1", "other")
	wantErr(t, err, ErrCluster)
	if !strings.Contains(err.Error(), dir) {
		t.Errorf("%v does not name the directory", err)
	}
}

func TestCreate(t *testing.T) {
	id, err := Create(files.FS{}, t.TempDir(), "", "c")
	if err != nil || !strings.HasPrefix(id.NodeID, "node-") || len(id.NodeID) != 13 {
		t.Fatalf("%+v, %v", id, err)
	}
	if _, err := Create(files.FS{}, t.TempDir(), strings.Repeat("n", MaxNameBytes), strings.Repeat("c", MaxNameBytes)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{strings.Repeat("n", MaxNameBytes+1), "c"}, {"n", ""}, {"n", strings.Repeat("c", MaxNameBytes+1)}} {
		if _, err := Create(files.FS{}, t.TempDir(), bad[0], bad[1]); err == nil {
			t.Errorf("%.5q accepted", bad)
		}
	}
	// A directory with a log and no identity has lost something.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Open(files.FS{}, dir, "n1", "c")
	wantErr(t, err, ErrCorrupt)
}

func TestDamagedIdentityIsRefused(t *testing.T) {
	dir := t.TempDir()
	id, err := Open(files.FS{}, dir, "n1", "quorate")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n := range len(good) - 1 { // the last byte is a line feed
		put(good[:n])
		_, err := Open(files.FS{}, dir, "n1", "quorate")
		wantErr(t, err, ErrCorrupt)
	}
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			put(b)
			if got, err := Load(files.FS{}, dir); err == nil && !reflect.DeepEqual(got, id) {
				t.Fatalf("bit %d of byte %d: accepted as %+v", bit, i, got)
			} else if err != nil {
				wantErr(t, err, ErrCorrupt)
			}
		}
	}
	put(bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 2`), 1))
	_, err = Load(files.FS{}, dir)
	wantErr(t, err, ErrCorrupt)
	put(bytes.ReplaceAll(good, []byte("  "), []byte("\t"))) // an editor's doing
	if got, err := Load(files.FS{}, dir); err != nil || !reflect.DeepEqual(got, id) {
		t.Fatal(got, err)
	}
}

func TestSaveFailureIsAnError(t *testing.T) {
	id := Identity{NodeID: "n1", RaftID: 1, Cluster: "c"}
	if err := id.Save(files.FS{}, filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Fatal("saved into nothing")
	}
}

func TestID(t *testing.T) {
	id := drawClusterID()
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Fatal(got, err)
	}
	if got, err := ParseID(""); err != nil || !got.IsZero() || got.String() != "" {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"0", strings.Repeat("g", 32), strings.Repeat("0", 33)} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
