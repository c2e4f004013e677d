package tidy

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/quorate/quorate"

// file is one parsed Go file; name is slash-separated, relative to the root.
type file struct {
	name   string
	source []byte
	lines  int
	fset   *token.FileSet
	ast    *ast.File
}

// dir is the package directory, "" for the root.
func (f *file) dir() string {
	if d := path.Dir(f.name); d != "." {
		return d
	}
	return ""
}

func (f *file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// generated files answer to their generator.
func (f *file) generated() bool { return ast.IsGenerated(f.ast) }

func (f *file) line(p token.Pos) int { return f.fset.Position(p).Line }

// tree is a source tree.
type tree struct {
	root  string
	files []*file
}

// load parses every Go file under root but those of other modules, of testdata
// and of hidden directories.
func load(t *testing.T, root string) *tree {
	t.Helper()
	tr := &tree{root: root}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(root, p, d.Name())
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		source, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, rel, source, parser.ParseComments)
		if err != nil {
			return err
		}
		tr.files = append(tr.files, &file{
			name: filepath.ToSlash(rel), source: source, lines: bytes.Count(source, []byte("\n")), fset: fset, ast: parsed,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func enter(root, p, name string) error {
	if p == root {
		return nil
	}
	if name == "testdata" || strings.HasPrefix(name, ".") || name == "bin" || name == "dist" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

// ours gives the path inside the module of an import, and whether it is one.
func ours(spec *ast.ImportSpec) (string, bool) {
	p := strings.Trim(spec.Path.Value, `"`)
	if p == module {
		return "", true
	}
	return strings.CutPrefix(p, module+"/")
}
