package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// Source is the cluster to back up.
type Source interface {
	Cluster(ctx context.Context) (api.Cluster, error)
	// Backup streams a shard from the node that leads it.
	Backup(ctx context.Context, shard uint32) (io.ReadCloser, error)
}

// attempts is how often a shard is begun anew when its stream is cut, by a
// change of leader for example.
const attempts = 5

// Write backs a cluster up into path, which must not exist; into a file named
// after cluster and time if path is a directory. It returns the file's name.
func Write(ctx context.Context, src Source, path string, now time.Time) (string, Manifest, error) {
	v, err := src.Cluster(ctx)
	if err != nil {
		return "", Manifest{}, err
	}
	m := Manifest{Header: Header{Cluster: v.Cluster, ClusterID: v.ClusterID, Shards: uint32(len(v.Shards)), Time: now.UTC().Truncate(time.Second)}}
	if m.Shards == 0 {
		return "", m, api.Errorf(503, 5, "not_formed", api.RetryLater, "the cluster has no shards yet: there is nothing to back up")
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() || strings.HasSuffix(path, "/") {
		path = filepath.Join(path, fmt.Sprintf("%s-%s.qbk", m.Cluster, m.Time.Format("20060102T150405Z")))
	}
	if err := m.write(ctx, src, path); err != nil {
		return "", m, fmt.Errorf("backup: %w", err)
	}
	return path, m, nil
}

func (m *Manifest) write(ctx context.Context, src Source, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: give another name, or a directory", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	partial := path + ".partial"
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = m.fill(ctx, src, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(partial, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (m *Manifest) fill(ctx context.Context, src Source, f *os.File) error {
	if _, err := f.WriteString(magic); err != nil {
		return err
	}
	if err := writeFrame(f, m.Header); err != nil {
		return err
	}
	for shard := range m.Shards {
		start, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		var x Shard
		for n := 1; ; n++ {
			if x, err = stream(ctx, src, shard, f); err == nil {
				break
			}
			if n == attempts || ctx.Err() != nil {
				return fmt.Errorf("shard %d: %w", shard, err)
			}
			if _, serr := f.Seek(start, io.SeekStart); serr != nil {
				return serr
			}
			if terr := f.Truncate(start); terr != nil {
				return terr
			}
		}
		m.Contents = append(m.Contents, x)
		if _, err := f.WriteAt(appendLength(nil, x.Bytes), start); err != nil {
			return err
		}
	}
	return writeFrame(f, m)
}

// stream appends one shard to f, after room for its length, verifying it on
// the way.
func stream(ctx context.Context, src Source, shard uint32, f *os.File) (Shard, error) {
	body, err := src.Backup(ctx, shard)
	if err != nil {
		return Shard{}, err
	}
	defer body.Close()
	out := bufio.NewWriterSize(f, readAhead)
	if _, err := out.Write(make([]byte, lengthBytes)); err != nil {
		return Shard{}, err
	}
	sum := sha256.New()
	in := &tally{r: body}
	through := bufio.NewReaderSize(io.TeeReader(in, io.MultiWriter(sum, out)), readAhead)
	c := newChain(shard)
	info, err := raftstore.CheckStream(through, c.sight())
	if err == nil && info.Shard != shard {
		err = fmt.Errorf("the node sent shard %d", info.Shard)
	}
	if err == nil {
		if _, more := through.ReadByte(); !errors.Is(more, io.EOF) {
			err = errors.Join(errors.New("the node sent more than the shard"), more)
		}
	}
	if err == nil {
		err = out.Flush()
	}
	x := c.describe(info)
	x.Bytes, x.SHA256 = in.n, hex.EncodeToString(sum.Sum(nil))
	return x, err
}
