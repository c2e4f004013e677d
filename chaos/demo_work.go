package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// goroot asks the Go installation where it is.
func goroot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("chaos: the demonstration needs the go command: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// packages lists the directories under root/src that hold Go files, in order,
// but those of testdata, vendored code and the tools under cmd.
func packages(root string) ([]string, error) {
	src := filepath.Join(root, "src")
	found := map[string]bool{}
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == "testdata" || n == "vendor" || rel == "cmd" || rel != "." && strings.HasPrefix(n, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if dir := filepath.ToSlash(filepath.Dir(rel)); strings.HasSuffix(p, ".go") && dir != "." {
			found[dir] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("chaos: standard library: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("chaos: no packages under %s", src)
	}
	dirs := make([]string, 0, len(found))
	for d := range found {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	return dirs, nil
}

// spread takes n of list, evenly.
func spread(list []string, n int) []string {
	if n >= len(list) {
		return list
	}
	out := make([]string, n)
	for i := range out {
		out[i] = list[i*len(list)/n]
	}
	return out
}

// workInput is what a demonstration task's input says.
type workInput struct {
	Root    string `json:"goroot"`
	Package string `json:"package"` // below goroot/src
}

// workResult is what a demonstration agent answers.
type workResult struct {
	Package  string   `json:"package"`
	Findings int      `json:"findings"`
	First    []string `json:"first,omitempty"`
	Skipped  string   `json:"skipped,omitempty"`
}

// maxFindings is how many findings a result quotes; it counts them all.
const maxFindings = 5

// Work is the command of the demonstration's agents: it reads a task from in,
// runs `go vet` (kind "vet") or `gofmt -l` (kind "lint") on the package that
// the task's input names, and writes {"findings":n,…} to out. A finding is a
// result; an error means that the check could not be made. The command line
// offers it as the hidden `quorate chaos work KIND`.
func Work(ctx context.Context, kind string, in io.Reader, out io.Writer) error {
	var task struct {
		Input workInput `json:"input"`
	}
	if err := json.NewDecoder(in).Decode(&task); err != nil {
		return fmt.Errorf("chaos: task: %w", err)
	}
	dir := filepath.Join(task.Input.Root, "src", filepath.FromSlash(task.Input.Package))
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("chaos: no Go files in %s", dir)
	}
	var res workResult
	switch kind {
	case "vet":
		res, err = vet(ctx, dir)
	case "lint":
		res, err = lint(ctx, task.Input.Root, dir, files)
	default:
		err = fmt.Errorf("chaos: work %q: want vet or lint", kind)
	}
	if err != nil {
		return err
	}
	res.Package = task.Input.Package
	if err := json.NewEncoder(out).Encode(res); err != nil {
		return fmt.Errorf("chaos: result: %w", err)
	}
	return nil
}

// finding is a line of go vet that places something: "./x.go:12:3: …".
var finding = regexp.MustCompile(`^(vet: )?[^#\s][^:]*\.go:\d+(:\d+)?: `)

// vet runs go vet in dir.
func vet(ctx context.Context, dir string) (workResult, error) {
	output, err := runIn(ctx, dir, "go", "vet", ".")
	var res workResult
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); finding.MatchString(line) {
			res.add(line)
		}
	}
	switch {
	case err == nil || res.Findings > 0:
		return res, nil
	case strings.Contains(output, "build constraints exclude all Go files"):
		res.Skipped = "no file of it is built here"
		return res, nil
	}
	return res, fmt.Errorf("chaos: go vet in %s: %w: %.500s", dir, err, output)
}

// lint runs gofmt -l on the files of dir; not on dir, which would descend.
func lint(ctx context.Context, root, dir string, files []string) (workResult, error) {
	gofmt := filepath.Join(root, "bin", "gofmt")
	if _, err := os.Stat(gofmt); err != nil {
		gofmt = "gofmt" // installations that keep it elsewhere have it in the path
	}
	output, err := runIn(ctx, dir, gofmt, append([]string{"-l"}, files...)...)
	if err != nil {
		return workResult{}, fmt.Errorf("chaos: gofmt in %s: %w: %.500s", dir, err, output)
	}
	var res workResult
	for line := range strings.Lines(output) {
		res.add(filepath.Base(strings.TrimSpace(line)))
	}
	return res, nil
}

func (r *workResult) add(line string) {
	r.Findings++
	if len(r.First) < maxFindings {
		r.First = append(r.First, line)
	}
}

// runIn runs a command in dir and returns all it wrote.
func runIn(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return out.String(), err
}
