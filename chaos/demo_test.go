package chaos

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// tree writes files below a temporary directory.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestPackages(t *testing.T) {
	root := writeTree(t, map[string]string{
		"src/fmt/print.go": "", "src/net/http/http.go": "", "src/net/README": "",
		"src/fmt/testdata/x.go": "", "src/vendor/a/a.go": "", "src/cmd/go/main.go": "", "src/top.go": "",
	})
	got, err := packages(root)
	if err != nil || !slices.Equal(got, []string{"fmt", "net/http"}) {
		t.Errorf("packages %v, %v", got, err)
	}
	if _, err := packages(t.TempDir()); err == nil {
		t.Error("an empty installation has packages")
	}
}

func TestSpread(t *testing.T) {
	list := []string{"a", "b", "c", "d", "e"}
	for n, want := range map[int]string{1: "a", 2: "ac", 5: "abcde", 9: "abcde"} {
		if got := strings.Join(spread(list, n), ""); got != want {
			t.Errorf("%d of %v: %s, want %s", n, list, got, want)
		}
	}
}

// TestWork runs the agents' command on a package with one finding of each kind.
func TestWork(t *testing.T) {
	root := writeTree(t, map[string]string{
		"src/go.mod":       "module m\n\ngo 1.26\n",
		"src/bad/bad.go":   "package bad\n\nimport \"fmt\"\n\nfunc  F() { fmt.Printf(\"%d\\n\", \"x\") }\n",
		"src/good/good.go": "package good\n",
		"src/none/none.go": "//go:build plan9\n\npackage none\n",
	})
	for _, tc := range []struct {
		kind, pkg string
		findings  int
		skipped   bool
		err       string
	}{
		{"vet", "bad", 1, false, ""},
		{"lint", "bad", 1, false, ""},
		{"vet", "good", 0, false, ""},
		{"lint", "good", 0, false, ""},
		{"vet", "none", 0, true, ""},
		{"vet", "absent", 0, false, "no Go files"},
		{"sing", "good", 0, false, "want vet or lint"},
	} {
		in, err := json.Marshal(map[string]any{"input": workInput{Root: root, Package: tc.pkg}})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = Work(t.Context(), tc.kind, bytes.NewReader(in), &out)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s %s: error %v, want %q", tc.kind, tc.pkg, err, tc.err)
			}
			continue
		}
		var res workResult
		if err != nil || json.Unmarshal(out.Bytes(), &res) != nil || res.Findings != tc.findings || (res.Skipped != "") != tc.skipped || res.Package != tc.pkg {
			t.Errorf("%s %s: %s, %v; want %d findings", tc.kind, tc.pkg, out.Bytes(), err, tc.findings)
		}
	}
	if err := Work(t.Context(), "vet", strings.NewReader("{"), &bytes.Buffer{}); err == nil {
		t.Error("a broken task was accepted")
	}
}

func TestGapAround(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	ends := []time.Time{at(0), at(12), at(8), at(9), at(11.5)} // in any order
	if got := gapAround(append(ends, at(30)), at(9.5)); got != 18*time.Second {
		t.Errorf("gap %v, want 18s: it begins within the window", got)
	}
	if got := gapAround(ends, at(9.5)); got != 2500*time.Millisecond {
		t.Errorf("gap %v, want 2.5s: the 8s before the kill do not count", got)
	}
	if got := gapAround(nil, at(0)); got != 0 {
		t.Errorf("gap %v of nothing", got)
	}
}

func TestProgressCountsEachTaskOnce(t *testing.T) {
	p := newProgress(3)
	p.mine = map[string]bool{"a": true, "b": true, "c": true}
	agents := []api.Agent{{Manifest: api.Manifest{AgentID: "x"}, NodeID: "n1"}}
	first := []api.Task{{TaskID: "a", State: "completed", AgentID: "x", Attempts: 1}, {TaskID: "b", State: "running", Attempts: 2}, {TaskID: "other", State: "completed"}}
	if !p.update(first, agents) || p.update(first, agents) {
		t.Error("progress is told once, when there is some")
	}
	if p.ended != 1 || p.running != 1 || p.retries != 1 || p.byAgent["x"] != 1 || p.byNode["n1"] != 1 {
		t.Errorf("progress %+v", p)
	}
}

// TestViewOffTerminal prints lines, not control sequences.
func TestViewOffTerminal(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out, false)
	p := newProgress(1)
	for range 3 {
		v.show(p, map[string]bool{"n1": true, "n2": false})
	}
	v.say("done")
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 2 || !strings.Contains(out.String(), "n2 0 (down)") {
		t.Errorf("wrote %q", out.String())
	}
	out.Reset()
	v = newView(&out, true)
	v.say("x")
	v.show(p, nil)
	if out.Len() > 0 {
		t.Errorf("silent view wrote %q", out.String())
	}
}
