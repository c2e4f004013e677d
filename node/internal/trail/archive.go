package trail

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/internal/files"
)

// Archive is a file of records that journals need not keep any more: lines of
// package proof, packed with zstd. Beside it stand FILE.checkpoint, signed, and
// FILE.keys.
type Archive struct {
	FS     files.FS
	Path   string
	Header proof.ArchiveHeader
	Signed []byte
	Keys   string // a line each; those of nodes that are no more commented out
	// Each hands over the records, in order.
	Each func(fn func(body []byte, r *ledger.Record) error) error
}

// ArchiveName is the file of a shard's records.
func ArchiveName(shard uint32, first, last uint64) string {
	return fmt.Sprintf("%04d-%012d-%012d.jsonl.zst", shard, first, last)
}

// ErrArchive says that an archive is not what it has to be.
var ErrArchive = errors.New("the archive does not verify: remove it, and what is beside it, to have it written again")

// Write writes the archive, durably, reads it back, and verifies what it read.
// The file has its name only after that: a crash leaves none.
func (a *Archive) Write() error {
	if err := a.FS.MkdirAll(filepath.Dir(a.Path)); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	tmp := a.Path + ".new"
	if err := a.write(tmp); err != nil {
		return fmt.Errorf("archive: %s: %w", tmp, err)
	}
	for _, x := range []struct {
		suffix string
		b      []byte
	}{{".checkpoint", a.Signed}, {".keys", []byte(a.Keys)}} {
		if err := a.FS.Replace(a.Path+x.suffix, x.b); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	if _, err := verifyArchive(a.FS, tmp, a.Path); err != nil {
		return err
	}
	if err := a.FS.Rename(tmp, a.Path); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

func (a *Archive) write(path string) error {
	f, err := a.FS.OpenReadWrite(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return errors.Join(err, f.Close())
	}
	out := bufio.NewWriterSize(io.NewOffsetWriter(f, 0), 256<<10)
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	before, _ := a.Header.Tree()
	lines := proof.Lines{Shard: a.Header.Shard, Tree: before}
	_, err = z.Write(a.Header.Append(nil))
	var buf []byte
	if err == nil {
		err = a.Each(func(body []byte, r *ledger.Record) error {
			buf = lines.Append(buf[:0], body, r)
			_, err := z.Write(buf)
			return err
		})
	}
	err = errors.Join(err, z.Close())
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// VerifyArchive reads an archive that is there already, with the checkpoint
// and the keys beside it, and says what it has.
func VerifyArchive(fs files.FS, path string) (proof.Report, error) {
	return verifyArchive(fs, path, path)
}

func verifyArchive(fs files.FS, path, beside string) (rep proof.Report, err error) {
	signed, err := fs.Read(beside + ".checkpoint")
	if err != nil {
		return rep, fmt.Errorf("archive: %w", err)
	}
	keys, err := fs.Read(beside + ".keys")
	if err != nil {
		return rep, fmt.Errorf("archive: %w", err)
	}
	all, _ := proof.ReadKeys(string(keys))
	c, err := proof.Open(signed, all, 0)
	if err != nil {
		return rep, fmt.Errorf("archive: %s: %w: %w", path, ErrArchive, err)
	}
	f, err := fs.OpenReadWrite(path)
	if err != nil {
		return rep, fmt.Errorf("archive: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return rep, fmt.Errorf("archive: %w", err)
	}
	z, err := zstd.NewReader(bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 256<<10), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return rep, fmt.Errorf("archive: %s: %w: %w", path, ErrArchive, err)
	}
	defer z.Close()
	if rep, err = proof.VerifyArchive(z, &c.Checkpoint); err != nil {
		return rep, fmt.Errorf("archive: %s: %w: %w", path, ErrArchive, err)
	}
	return rep, nil
}
