//go:build !linux

package execagent

import "syscall"

// procAttr is a process group of its own. Here it outlives a process that is
// killed: an effect that must not be late needs the epoch checked at its target.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
