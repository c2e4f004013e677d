// Package execagent turns any command into an agent: the task's JSON goes to
// its standard input, its standard output is the result, its exit code the
// verdict.
//
// An [Agent] works over the stream ([client.Client.WorkWith]): tasks are pushed
// to it, its node renews their leases, and when that node dies it goes on at
// another with what it holds. It runs the command in a process group of its own
// for each task, up to Max at a time, and repeats a verdict until it is
// acknowledged or refused. At its end it takes no more, lets the
// commands under way finish for as long as Drain, and stops the rest, failing
// their attempts so that other agents get them at once.
//
// # The command
//
// Standard input is one line of JSON: the lease with task_id, epoch, input and
// the rest. The environment has QUORATE_TASK_ID, QUORATE_EPOCH (the fencing
// token: hand it to what the command changes), QUORATE_ACTION, QUORATE_TARGET,
// QUORATE_ATTEMPT, QUORATE_IDEMPOTENCY_KEY, QUORATE_AGENT_ID and
// QUORATE_FLEET_ID. Standard output, up to MaxResultBytes, is the result: JSON
// as it is, anything else as a JSON string. The end of standard error, up to
// MaxStderrBytes, is the error of a failed attempt.
//
//	exit 0                the task is completed
//	exit 65 (EX_DATAERR)  it failed for good: another attempt would not help
//	exit 75 (EX_TEMPFAIL) the attempt failed; the task's retry policy decides
//	any other, a signal   as 75
//
// A task that is cancelled, timed out or given to another agent, and one that
// runs longer than Timeout, has its process group ended: SIGTERM, and SIGKILL
// after Grace. What a command leaves behind in its group ends with it. When the
// agent itself is killed nobody renews the lease: the command and all it has
// started are killed then. The first of the group, which the group is named
// after, is a shell that waits for that (guard.go; without /bin/sh there is none,
// and on Linux the command alone is killed). What has made itself a session or
// group of its own (setsid) goes on: let what has the effect not do so.
//
// # Goroutines
//
//	name     owner    ends
//	the client's  Run      Run returns
//	drain timer   Run      Run returns
//	renewer       Perform  the command has ended
//	waiter        command  the process has ended
package execagent
