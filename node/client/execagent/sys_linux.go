package execagent

import "syscall"

// procAttr is a process group of its own, whose first process ends when this
// one dies: who can't renew a lease any more must not have its effect.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
