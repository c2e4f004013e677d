package main

import "testing"

func TestParseTBB(t *testing.T) {
	got, err := parseTBB("task_group 277.10\nparallel_for 29.00\n")
	if err != nil || got["task_group"] != 277.1 || got["parallel_for"] != 29 {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"", "task_group\n", "task_group -1\n", "killed\n"} {
		if got, err := parseTBB(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// Where oneTBB is installed, its program compiles and prints what is asked for.
func TestTBBRuns(t *testing.T) {
	if err := tbbMissing(); err != nil {
		t.Skip(err)
	}
	got, err := runTBB(t.Context())
	if err != nil || len(got) != 3 {
		t.Fatalf("%v %v", got, err)
	}
}
