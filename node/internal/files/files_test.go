package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// both runs fn on the disk and on a file system that was brought.
func both(t *testing.T, fn func(t *testing.T, f FS, dir string)) {
	t.Run("disk", func(t *testing.T) { fn(t, FS{}, t.TempDir()) })
	t.Run("brought", func(t *testing.T) { fn(t, FS{vfs.NewMem()}, "/") })
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, f FS, dir string) {
		dir = filepath.Join(dir, "a", "b")
		path := filepath.Join(dir, "x")
		if err := f.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("read what is not there: %v", err)
		}
		if there, err := f.Exists(path); there || err != nil {
			t.Errorf("%v, %v", there, err)
		}
		for _, want := range []string{"first", "2"} {
			if err := f.Replace(path, []byte(want)); err != nil {
				t.Fatal(err)
			}
			if b, err := f.Read(path); err != nil || string(b) != want {
				t.Errorf("read %q: %v", b, err)
			}
		}
		if there, err := f.Exists(path); !there || err != nil {
			t.Errorf("%v, %v", there, err)
		}
		x, err := f.OpenReadWrite(filepath.Join(dir, "y"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = x.WriteAt([]byte("0123456789"), 0)
		if err = errors.Join(err, x.Truncate(4)); err != nil {
			t.Fatal(err)
		}
		_, err = x.WriteAt([]byte("ab"), 4)
		if size, serr := x.Size(); size != 6 || errors.Join(err, serr, x.Sync(), x.Close()) != nil {
			t.Errorf("%d bytes: %v, %v", size, err, serr)
		}
		if b, err := f.Read(filepath.Join(dir, "y")); err != nil || string(b) != "0123ab" {
			t.Errorf("read %q: %v", b, err)
		}
		if err := errors.Join(f.Remove(path), f.Remove(filepath.Join(dir, "y"))); err != nil {
			t.Error(err)
		}
		lock, err := f.Lock(filepath.Join(dir, "LOCK"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Lock(filepath.Join(dir, "LOCK")); !errors.Is(err, ErrLocked) {
			t.Errorf("locked twice: %v", err)
		}
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
		if lock, err = f.Lock(filepath.Join(dir, "LOCK")); err != nil {
			t.Fatal(err)
		}
		lock.Close()
	})
}

// What Replace and MkdirAll did is there after a loss of power.
func TestDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	f := FS{fs}
	if err := errors.Join(f.MkdirAll("/a/b/c"), f.Replace("/a/b/c/x", []byte("kept"))); err != nil {
		t.Fatal(err)
	}
	after := FS{fs.CrashClone(vfs.CrashCloneCfg{})}
	if b, err := after.Read("/a/b/c/x"); err != nil || string(b) != "kept" {
		t.Errorf("read %q: %v", b, err)
	}
}
