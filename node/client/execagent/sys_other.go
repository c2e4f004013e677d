//go:build !linux

package execagent

import "syscall"

// procAttr is a place in a process group. Only its guard ends it when this
// process is killed.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
