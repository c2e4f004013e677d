package main

import (
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["until"], commands["glob"], commands["damage"] = until, glob, damage
}

// untilWithin is how long what a script waits for may take.
const untilWithin = 40 * time.Second

// until PATTERN COMMAND… runs a command until its standard output matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND…")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for end := time.Now().Add(untilWithin); ; time.Sleep(100 * time.Millisecond) { // nothing outside says when
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no %s within %v: %v", args[0], untilWithin, err)
		}
	}
}

// glob VARIABLE PATTERN sets a variable to the first file that there is.
func glob(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: glob VARIABLE PATTERN")
	}
	list, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(list) == 0 {
		ts.Fatalf("no file %s", args[1])
	}
	ts.Setenv(args[0], list[0])
}

// damage FILE alters a byte in its middle.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage FILE")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}
