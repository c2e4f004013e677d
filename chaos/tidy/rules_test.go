package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
)

// finding is one broken rule; key is what the ratchet knows it by.
type finding struct {
	key  string
	size int // of what is too long, 0 for other rules
	text string
}

// mayImport says, for each package of the top level, which others of ours it
// and its subpackages may import. Longer paths go first.
var mayImport = []struct {
	from string
	to   []string
}{
	{"ledger", nil},
	{"raftstore", []string{"ledger"}},
	{"sched", nil},
	{"gossip", nil},
	{"node/api", nil},
	{"node/client", []string{"node/api"}},
	{"node", []string{"node", "ledger", "raftstore", "sched", "gossip"}},
	{"bench", []string{"bench", "chaos", "node", "ledger", "raftstore", "sched", "gossip"}},
	{"chaos", []string{"chaos", "node", "ledger", "raftstore", "sched", "gossip"}},
	{"cmd", []string{"cmd", "ledger/proof", "node", "bench", "chaos"}},
}

func within(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }

// imports: the import graph is the one that was designed.
func imports(tr *tree) (found []finding) {
	for _, f := range tr.files {
		rule := slices.IndexFunc(mayImport, func(r struct {
			from string
			to   []string
		}) bool {
			return within(f.dir(), r.from)
		})
		if rule < 0 {
			found = append(found, finding{text: f.name + ": no package may be outside the fixed top level"})
			continue
		}
		r := mayImport[rule]
		for _, spec := range f.ast.Imports {
			to, ok := ours(spec)
			if !ok || within(to, r.from) || slices.ContainsFunc(r.to, func(t string) bool { return within(to, t) }) {
				continue
			}
			found = append(found, finding{text: fmt.Sprintf("%s:%d: %s may not import %s", f.name, f.line(spec.Pos()), r.from, to)})
		}
	}
	return found
}

// impure are the imports that would let a replica decide differently from
// another. An entry covers its subpackages.
var impure = []string{"time", "math/rand", "crypto/rand", "os", "io/fs", "io/ioutil", "sync", "net", "runtime", "context", "log", "syscall", "unsafe", "plugin"}

// pure: package ledger has no way to learn anything but its input.
func pure(tr *tree) (found []finding) {
	for _, f := range tr.files {
		if !within(f.dir(), "ledger") || f.test() {
			continue
		}
		bad := func(n ast.Node, what string) {
			found = append(found, finding{text: fmt.Sprintf("%s:%d: ledger is pure: no %s", f.name, f.line(n.Pos()), what)})
		}
		for _, spec := range f.ast.Imports {
			p := strings.Trim(spec.Path.Value, `"`)
			if slices.ContainsFunc(impure, func(i string) bool { return within(p, i) }) {
				bad(spec, "import of "+p)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				bad(n, "go statement")
			case *ast.SelectStmt:
				bad(n, "select statement")
			case *ast.ChanType:
				bad(n, "channel")
			case *ast.Ident:
				if n.Name == "float32" || n.Name == "float64" || n.Name == "complex64" || n.Name == "complex128" {
					bad(n, n.Name)
				}
			case *ast.BasicLit:
				if n.Kind == token.FLOAT || n.Kind == token.IMAG {
					bad(n, "float "+n.Value)
				}
			}
			return true
		})
	}
	return found
}

// libraries are embedded in processes of others: when those end, and what their
// signals do, is not theirs to say. An entry covers its subpackages.
var libraries = []string{"ledger", "raftstore", "sched", "gossip", "node"}

// exits are the functions that end a process, by the import path.
var exits = map[string][]string{
	"os":      {"Exit"},
	"log":     {"Fatal", "Fatalf", "Fatalln"},
	"syscall": {"Exit"},
}

// embeddable: no library ends its process or takes its signals.
func embeddable(tr *tree) (found []finding) {
	for _, f := range tr.files {
		if f.test() || !slices.ContainsFunc(libraries, func(l string) bool { return within(f.dir(), l) }) {
			continue
		}
		bad := func(n ast.Node, what string) {
			found = append(found, finding{text: fmt.Sprintf("%s:%d: %s: a library returns an error, its process decides", f.name, f.line(n.Pos()), what)})
		}
		imported := map[string]string{} // path by the name in this file
		for _, spec := range f.ast.Imports {
			p := strings.Trim(spec.Path.Value, `"`)
			name := path.Base(p)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			if imported[name] = p; p == "os/signal" || name == "." && exits[p] != nil {
				bad(spec, "import of "+p)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && slices.Contains(exits[imported[x.Name]], s.Sel.Name) {
					bad(n, imported[x.Name]+"."+s.Sel.Name)
				}
			}
			return true
		})
	}
	return found
}

// Limits of size, in lines.
const (
	maxFileLines     = 500
	maxFunctionLines = 70
	maxDocLines      = 80
)

// sizes: files, functions and package documents stay short.
func sizes(tr *tree) (found []finding) {
	for _, f := range tr.files {
		if f.generated() {
			continue
		}
		limit := maxFileLines
		if strings.HasSuffix(f.name, "/doc.go") {
			limit = maxDocLines
		}
		if f.lines > limit {
			found = append(found, finding{f.name, f.lines, fmt.Sprintf("%s has %d lines, the limit is %d", f.name, f.lines, limit)})
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.line(fn.End()) - f.line(fn.Pos()) + 1; n > maxFunctionLines {
				key := f.name + ":" + functionName(fn)
				found = append(found, finding{key, n, fmt.Sprintf("%s has %d lines, the limit is %d", key, n, maxFunctionLines)})
			}
		}
	}
	return found
}

// functionName is Name or Receiver.Name.
func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	name := fn.Name.Name
	ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && !strings.Contains(name, ".") {
			name = id.Name + "." + name
		}
		return true
	})
	return name
}

// documents: every package has a doc.go.
func documents(tr *tree) (found []finding) {
	has := map[string]bool{}
	var dirs []string
	for _, f := range tr.files {
		if _, ok := has[f.dir()]; !ok {
			has[f.dir()] = false
			dirs = append(dirs, f.dir())
		}
		if strings.HasSuffix(f.name, "/doc.go") && f.ast.Doc != nil {
			has[f.dir()] = true
		}
	}
	for _, d := range dirs {
		if !has[d] && !within(d, "cmd") {
			found = append(found, finding{text: d + " has no doc.go with a package comment"})
		}
	}
	return found
}

// words that mark a debt, a place only one machine has, or a text that speaks
// of something else than the project.
var words = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`), "do it now, or say in words why it is not done"},
	{regexp.MustCompile(`not implemented|not built yet|unimplemented`), "a stub"},
	{regexp.MustCompile(`(^|[^\w.])(/work/|/root/|/home/[a-z])`), "a path of one machine"},
	{regexp.MustCompile(`(?i)\bas requested\b|\bissue #?[0-9]+ (says|asks|wants)`), "the source speaks of the project alone"},
}

// skips are for programs of others that are not installed, which a comment on
// their line or the one above says.
var skips = regexp.MustCompile(`\bt\.Skip(Now|f)?\(`)

// sleeps in tests need a reason on their line or the one above.
var sleeps = regexp.MustCompile(`\btime\.Sleep\(`)

// vague are endings of declared names that say nothing.
var vague = regexp.MustCompile(`(Manager|Helper|Helpers|Util|Utils)$|^Get[A-Z]`)

// foreign are vague names that an interface of somebody else asks for.
var foreign = map[string]bool{"GetBroadcasts": true, "GetDiskUsage": true} // memberlist.Delegate, vfs.FS

// wording: none of the above.
func wording(tr *tree) (found []finding) {
	for _, f := range tr.files {
		if f.generated() || within(f.dir(), "chaos/tidy") {
			continue
		}
		lines := strings.Split(string(f.source), "\n")
		for i, line := range lines {
			for _, w := range words {
				if m := w.pattern.FindString(line); m != "" {
					found = append(found, finding{text: fmt.Sprintf("%s:%d: %q: %s", f.name, i+1, m, w.why)})
				}
			}
			above := i > 0 && strings.HasPrefix(strings.TrimSpace(lines[i-1]), "//")
			if skips.MatchString(line) && !strings.Contains(line, "//") && !above {
				found = append(found, finding{text: fmt.Sprintf("%s:%d: a hidden skip; length is a flag, and what program is missing is said in a comment", f.name, i+1)})
			}
			if f.test() && sleeps.MatchString(line) && !strings.Contains(line, "//") && !above {
				found = append(found, finding{text: fmt.Sprintf("%s:%d: a test sleeps: await an event, or say why none can be awaited", f.name, i+1)})
			}
		}
		found = append(found, vagueNames(f)...)
	}
	return found
}

func vagueNames(f *file) (found []finding) {
	check := func(id *ast.Ident) {
		if vague.MatchString(id.Name) && !foreign[id.Name] {
			found = append(found, finding{text: fmt.Sprintf("%s:%d: the name %s says nothing", f.name, f.line(id.Pos()), id.Name)})
		}
	}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			check(d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if ts, ok := spec.(*ast.TypeSpec); ok {
					check(ts.Name)
				}
			}
		}
	}
	if n := f.ast.Name.Name; n == "util" || n == "utils" || n == "common" || n == "helpers" || n == "misc" {
		check(&ast.Ident{Name: "Util", NamePos: f.ast.Name.Pos()})
	}
	return found
}
