package tidy

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// root is the repository, seen from this package's directory.
var root = filepath.Join("..", "..")

// ratchetSlack is how far below its entry something may shrink before the
// entry has to follow: entries should not change with every edit.
const ratchetSlack = 20 // lines

func TestImportsFollowTheDesign(t *testing.T) { report(t, imports(load(t, root))) }
func TestLedgerIsPure(t *testing.T)           { report(t, pure(load(t, root))) }
func TestLibrariesDoNotEndTheirProcess(t *testing.T) {
	report(t, embeddable(load(t, root)))
}
func TestEveryPackageHasADocument(t *testing.T) {
	report(t, documents(load(t, root)))
}
func TestWords(t *testing.T) { report(t, wording(load(t, root))) }

func TestSizes(t *testing.T) {
	known := readRatchet(t, filepath.Join("testdata", "ratchet.txt"))
	report(t, ratchet(sizes(load(t, root)), known))
}

func report(t *testing.T, found []finding) {
	t.Helper()
	for _, f := range found {
		t.Error(f.text)
	}
}

// readRatchet reads "key lines" pairs; # starts a comment.
func readRatchet(t *testing.T, name string) map[string]int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	known := map[string]int{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, size, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil {
			t.Fatalf("%s: cannot read %q", name, line)
		}
		known[key] = n
	}
	return known
}

// ratchet drops findings that are known and have not grown, and adds one for
// each entry that is no longer true.
func ratchet(found []finding, known map[string]int) (left []finding) {
	seen := map[string]bool{}
	for _, f := range found {
		was, ok := known[f.key]
		seen[f.key] = true
		switch {
		case !ok:
			left = append(left, f)
		case f.size > was:
			f.text += fmt.Sprintf("; it is an exception already, at %d, and may only shrink", was)
			left = append(left, f)
		case f.size < was-ratchetSlack:
			left = append(left, finding{text: fmt.Sprintf("ratchet: %s has shrunk to %d lines: lower its entry from %d", f.key, f.size, was)})
		}
	}
	for key := range known {
		if !seen[key] {
			left = append(left, finding{text: "ratchet: " + key + " fits now, or is gone: remove its entry"})
		}
	}
	return left
}

// TestRulesFindWhatIsPlanted runs every rule over a tree that breaks it.
func TestRulesFindWhatIsPlanted(t *testing.T) {
	tr := load(t, filepath.Join("testdata", "planted"))
	for _, tc := range []struct {
		name string
		rule func(*tree) []finding
		want []string
	}{
		{"imports", imports, []string{
			"ledger may not import sched",
			"node/api may not import node",
			"raftstore may not import node",
			"extra/extra.go: no package may be outside",
		}},
		{"pure", pure, []string{
			"import of time", "import of math/rand/v2", "import of os", "import of sync/atomic", "import of net/http",
			"no go statement", "no select statement", "no channel", "no float64", "no float 0.5",
		}},
		{"embeddable", embeddable, []string{
			"import of os/signal", "exit.go:13: os.Exit", "exit.go:15: log.Fatalf", "exit.go:17: syscall.Exit", "exit.go:19: os.Exit",
		}},
		{"sizes", sizes, []string{"raftstore/long.go has 501 lines", "raftstore/long.go:Store.Long has 71 lines", "raftstore/doc.go has 81 lines"}},
		{"documents", documents, []string{"ledger has no doc.go"}},
		{"words", wording, []string{
			"do it now", "a stub", "a path of one machine", "a hidden skip", "a test sleeps", "speaks of the project alone",
			"NodeManager says nothing", "GetNode says nothing",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var text []string
			for _, f := range tc.rule(tr) {
				text = append(text, f.text)
			}
			all := strings.Join(text, "\n")
			for _, w := range tc.want {
				if !strings.Contains(all, w) {
					t.Errorf("nothing found that says %q; found:\n%s", w, all)
				}
			}
		})
	}
}

func TestRatchetOnlyShrinks(t *testing.T) {
	known := map[string]int{"same": 600, "grown": 600, "shrunk": 600, "gone": 600}
	left := ratchet([]finding{{"same", 595, "same"}, {"grown", 601, "grown"}, {"shrunk", 550, "shrunk"}, {"new", 501, "new"}}, known)
	var text []string
	for _, f := range left {
		text = append(text, f.text)
	}
	all := strings.Join(text, "\n")
	for _, w := range []string{"grown; it is an exception", "shrunk has shrunk to 550", "gone fits now", "new"} {
		if !strings.Contains(all, w) {
			t.Errorf("nothing says %q in:\n%s", w, all)
		}
	}
	if len(left) != 4 {
		t.Errorf("%d findings, want 4:\n%s", len(left), all)
	}
}
