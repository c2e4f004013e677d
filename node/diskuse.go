package node

import (
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
)

// diskUseEvery is how old the figures about the disk may be: directories are
// read for them.
const diskUseEvery = 5 * time.Second

// diskUse is what the parts of a node's data take on disk.
type diskUse struct {
	mu   sync.Mutex
	at   time.Time
	last api.DiskParts
}

// diskParts measures the parts, or repeats what was measured just now.
func (n *core) diskParts() api.DiskParts {
	u := &n.diskUse
	u.mu.Lock()
	defer u.mu.Unlock()
	now := n.cfg.Now()
	if age := now.Sub(u.at); !u.at.IsZero() && age >= 0 && age < diskUseEvery {
		return u.last
	}
	p, err := measureDisk(n.trails.fs, n.cfg.DataDir, n.archives.dir)
	if err != nil {
		n.cfg.Logger.Warn("what the data takes on disk can't be told", "layer", 5, "error", err)
	}
	u.last, u.at = p, now
	return p
}

// changed has them measured when they are asked for next.
func (u *diskUse) changed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at = time.Time{}
}

// measureDisk adds up the files of a data directory by their part.
func measureDisk(fs files.FS, dir, archive string) (p api.DiskParts, err error) {
	err = fs.Walk(dir, func(path string, size int64) {
		rel, rerr := filepath.Rel(dir, path)
		if within, aerr := filepath.Rel(archive, path); rerr != nil || aerr == nil && !strings.HasPrefix(within, "..") {
			return // below, also when it is elsewhere
		}
		top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		switch {
		case top == "log":
			p.Log += size
		case top == "state" || top == "staging":
			p.State += size
		case top == "journal":
			p.Journal += size
		case top == "audit" && strings.HasSuffix(rel, ".index"):
			p.Index += size
		case top == "audit":
			p.Hashes += size
		default:
			p.Other += size
		}
	})
	if err == nil {
		err = fs.Walk(archive, func(_ string, size int64) { p.Archive += size })
	}
	p.Total = p.Log + p.State + p.Journal + p.Hashes + p.Index + p.Archive + p.Other
	return p, err
}
