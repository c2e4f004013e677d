package execagent

import "syscall"

// procAttr is a place in a process group, for a process that ends when this one
// dies: who can't renew a lease any more must not have its effect.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
