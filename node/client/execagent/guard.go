package execagent

import (
	"io"
	"os/exec"
	"syscall"
)

// guard is the first process of a command's group, and what the group is named
// after. It holds the end of a pipe that ends with this process, however this
// ends, and then kills the group: the command is killed by Linux itself
// (procAttr), what it has started, and the command elsewhere, by its guard.
type guard struct {
	cmd  *exec.Cmd
	hold io.Closer
}

// guardScript waits for the end of its input, and kills its own group. It does
// not heed what asks the group to end politely, or it would be gone before
// those that do not heed it either.
const guardScript = `trap '' HUP INT QUIT TERM; read -r never; kill -KILL 0`

// newGuard begins a group.
func newGuard() (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd, hold}, nil
}

// group is the number of the group for the command to join; 0, of no guard:
// one of its own.
func (g *guard) group() int {
	if g == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

// end kills the group. Its number is nobody else's before the guard is waited for.
func (g *guard) end() {
	if g == nil {
		return
	}
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) // gone already is fine
	_ = g.hold.Close()
	_ = g.cmd.Wait() // killed
}
