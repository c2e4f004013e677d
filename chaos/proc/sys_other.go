//go:build !linux

package proc

import (
	"errors"
	"syscall"
	"time"
)

// procAttr: there is no death signal here; children are ended by Close only.
func procAttr(detach bool) *syscall.SysProcAttr {
	if detach {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true}
}

func cpuOf(int) (time.Duration, error) {
	return 0, errors.New("proc: cpu time of a running process is known on Linux only")
}

func rssOf(int) (int64, error) {
	return 0, errors.New("proc: resident memory of a process is known on Linux only")
}
