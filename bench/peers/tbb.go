package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/quorate/quorate/bench"
)

// tbbSource is a program that times oneTBB; the harness compiles it, with CXX, CXXFLAGS and LDFLAGS from the environment.
//
//go:embed tbb/tbb.cpp
var tbbSource []byte

// tbbContender is oneTBB in one of its ways; metrics are the names the program prints, and what they are set against.
func tbbContender(name, note string, metrics map[string]string) Contender {
	return Contender{Name: name, Note: note, Missing: tbbMissing, Run: func(ctx context.Context, _ Options) ([]Value, error) {
		took, err := runTBB(ctx)
		if err != nil {
			return nil, err
		}
		var out []Value
		for _, metric := range bench.SchedMetrics() {
			if x, ok := took[metrics[metric]]; ok {
				out = append(out, Value{Metric: metric, Unit: "ns", Value: x, Lower: true})
			}
		}
		return out, nil
	}}
}

func compiler() string {
	if cxx := os.Getenv("CXX"); cxx != "" {
		return cxx
	}
	return "c++"
}

// tbbMissing says whether a C++ compiler finds oneTBB's headers.
var tbbMissing = sync.OnceValue(func() error {
	cmd := exec.Command(compiler(), append(strings.Fields(os.Getenv("CXXFLAGS")), "-std=c++17", "-E", "-x", "c++", "-")...)
	cmd.Stdin = strings.NewReader("#include <tbb/task_group.h>\n")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("no C++ compiler that finds oneTBB (%w): apt-get install g++ libtbb-dev", err)
	}
	return nil
})

// runTBB compiles the program and runs it once.
func runTBB(ctx context.Context) (map[string]float64, error) {
	dir, err := os.MkdirTemp("", "quorate-tbb-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, program := filepath.Join(dir, "tbb.cpp"), filepath.Join(dir, "tbb")
	if err := os.WriteFile(source, tbbSource, 0o600); err != nil {
		return nil, err
	}
	args := append(strings.Fields(os.Getenv("CXXFLAGS")), "-O2", "-std=c++17", source, "-o", program)
	args = append(append(args, strings.Fields(os.Getenv("LDFLAGS"))...), "-ltbb", "-pthread")
	if out, err := exec.CommandContext(ctx, compiler(), args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile oneTBB's program: %w: %s", err, out)
	}
	out, err := exec.CommandContext(ctx, program, strconv.Itoa(schedOperations)).Output()
	if err != nil {
		return nil, fmt.Errorf("oneTBB's program: %w", err)
	}
	return parseTBB(string(out))
}

// parseTBB reads lines of a name and a figure.
func parseTBB(out string) (map[string]float64, error) {
	took := map[string]float64{}
	for line := range strings.Lines(out) {
		name, figure, _ := strings.Cut(strings.TrimSpace(line), " ")
		x, err := strconv.ParseFloat(figure, 64)
		if err != nil || x <= 0 {
			return nil, fmt.Errorf("oneTBB's program printed %q", line)
		}
		took[name] = x
	}
	if len(took) == 0 {
		return nil, errors.New("oneTBB's program printed nothing")
	}
	return took, nil
}
