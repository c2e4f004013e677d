package main

import (
	"strings"
	"testing"
)

// Colours and letters of several bytes do not move a column.
func TestTable(t *testing.T) {
	var out strings.Builder
	table(&out, "NODE STATE TERM", [][]string{{"n1", "\x1b[32malive\x1b[0m", "1"}, {"knöten", "lost", ""}})
	want := "NODE    STATE  TERM\nn1      \x1b[32malive\x1b[0m  1\nknöten  lost\n"
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}
