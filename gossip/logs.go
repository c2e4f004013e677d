package gossip

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// layer is what errors and logs of this package are filed under.
const layer = "L3"

const (
	logQuiet   = 10 * time.Second // a warning like the last is logged this often
	logKeyLen  = 48               // warnings alike in so many bytes are alike: addresses come last
	logEntries = 64               // warnings remembered
)

// logs turns memberlist's log lines into records: errors into warnings at a
// limited rate (it repeats itself, and recovers), all else into debug.
type logs struct {
	to *slog.Logger
	mu struct {
		sync.Mutex
		last map[string]time.Time
	}
}

// Write implements io.Writer for a log.Logger without flags: one line a call.
func (l *logs) Write(line []byte) (int, error) {
	level, text := slog.LevelDebug, strings.TrimSpace(string(line))
	if rest, ok := strings.CutPrefix(text, "[ERR] "); ok {
		level, text = slog.LevelWarn, rest
	} else if _, rest, ok := strings.Cut(text, "] "); ok && text[0] == '[' {
		text = rest
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if level > slog.LevelDebug && !l.allow(text) {
		return len(line), nil
	}
	l.to.Log(context.Background(), level, "gossip: "+text, "layer", layer)
	return len(line), nil
}

// allow reports whether a warning is not like one just given.
func (l *logs) allow(text string) bool {
	key := text[:min(len(text), logKeyLen)]
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.mu.last[key]; ok && now.Sub(last) < logQuiet {
		return false
	}
	if l.mu.last == nil || len(l.mu.last) >= logEntries {
		l.mu.last = map[string]time.Time{}
	}
	l.mu.last[key] = now
	return true
}

// warn logs at the same limited rate.
func (l *logs) warn(text string, attrs ...any) {
	if l.allow(text) {
		l.to.Warn(text, append([]any{"layer", layer}, attrs...)...)
	}
}
