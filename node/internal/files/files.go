package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is where the files are; the zero value is the disk.
type FS struct{ FS vfs.FS }

// File is read and written in the middle.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
	Size() (int64, error)
	Truncate(size int64) error
}

// MkdirAll makes a directory and those above it, durably.
func (f FS) MkdirAll(dir string) error {
	var made []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		there, err := f.Exists(d)
		if err != nil {
			return err
		}
		if there || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	var err error
	if f.FS == nil {
		err = os.MkdirAll(dir, 0o700)
	} else {
		err = f.FS.MkdirAll(dir, 0o700)
	}
	for _, d := range made { // a directory is lost with its entry
		if err == nil {
			err = f.syncDir(filepath.Dir(d))
		}
	}
	return err
}

// Exists says whether there is such a file, or directory.
func (f FS) Exists(path string) (bool, error) {
	var err error
	if f.FS == nil {
		_, err = os.Lstat(path)
	} else {
		_, err = f.FS.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Read reads a whole file.
func (f FS) Read(path string) ([]byte, error) {
	if f.FS == nil {
		return os.ReadFile(path)
	}
	x, err := f.FS.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(x)
	return b, errors.Join(err, x.Close())
}

// Remove removes a file.
func (f FS) Remove(path string) error {
	if f.FS == nil {
		return os.Remove(path)
	}
	return f.FS.Remove(path)
}

// Walk calls fn with every file below a directory, and its size. Files that
// come and go meanwhile are left out; so is a directory that is not there.
func (f FS) Walk(dir string, fn func(path string, size int64)) error {
	there, err := f.Exists(dir)
	if err != nil || !there {
		return err
	}
	fs := f.FS
	if fs == nil {
		fs = vfs.Default
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		st, err := fs.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		case st.IsDir():
			err = f.Walk(path, fn)
		default:
			fn(path, st.Size())
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Replace makes b what the file holds, durably when it returns nil; after an
// error the file may be the old one or the new one.
func (f FS) Replace(path string, b []byte) error {
	tmp := path + ".new" // left behind by a crash, it is overwritten by the next
	var x interface {
		io.WriteCloser
		Sync() error
	}
	var err error
	if f.FS == nil {
		x, err = os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	} else {
		b = slices.Clone(b) // a vfs.File may spoil what it is given
		x, err = f.FS.Create(tmp, vfs.WriteCategoryUnspecified)
	}
	if err != nil {
		return err
	}
	if _, err = x.Write(b); err == nil {
		err = x.Sync()
	}
	if err = errors.Join(err, x.Close()); err != nil {
		return err
	}
	return f.Rename(tmp, path)
}

// Rename gives a file another name in its directory, durably; a file of that
// name is replaced.
func (f FS) Rename(from, to string) error {
	var err error
	if f.FS == nil {
		err = os.Rename(from, to)
	} else {
		err = f.FS.Rename(from, to)
	}
	if err != nil {
		return err
	}
	return f.syncDir(filepath.Dir(to))
}

func (f FS) syncDir(dir string) error {
	var d interface {
		Sync() error
		Close() error
	}
	var err error
	if f.FS == nil {
		d, err = os.Open(dir)
	} else {
		d, err = f.FS.OpenDir(dir)
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrLocked says that somebody else has the lock.
var ErrLocked = errors.New("it is locked")

// Lock holds a lock file until it is closed.
func (f FS) Lock(path string) (io.Closer, error) {
	if f.FS != nil {
		c, err := f.FS.Lock(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLocked, err)
		}
		return c, nil
	}
	x, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(x.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		x.Close()
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return x, nil
}

// OpenReadWrite opens a file, made when missing.
func (f FS) OpenReadWrite(path string) (File, error) {
	if f.FS == nil {
		x, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		return onDisk{x}, nil
	}
	x, err := f.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &brought{x, f, path}, nil
}

type onDisk struct{ *os.File }

// Size implements File.
func (x onDisk) Size() (int64, error) {
	st, err := x.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// brought is a file of a vfs.FS, which knows no truncation: the file is
// written anew. Truncate is not called beside other methods.
type brought struct {
	vfs.File
	fs   FS
	path string
}

// Size implements File.
func (x *brought) Size() (int64, error) {
	st, err := x.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// WriteAt implements File.
func (x *brought) WriteAt(b []byte, at int64) (int, error) {
	return x.File.WriteAt(slices.Clone(b), at) // it may spoil what it is given
}

// Truncate implements File.
func (x *brought) Truncate(size int64) error {
	b := make([]byte, size)
	if n, err := x.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == size) {
		return err
	}
	if err := x.Close(); err != nil {
		return err
	}
	if err := x.fs.Replace(x.path, b); err != nil {
		return err
	}
	f, err := x.fs.FS.OpenReadWrite(x.path, vfs.WriteCategoryUnspecified)
	if err == nil {
		x.File = f
	}
	return err
}
