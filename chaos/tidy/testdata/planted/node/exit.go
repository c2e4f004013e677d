// Package node ends its process.
package node

import (
	fatal "log"
	"os"
	"os/signal"
	"syscall"
)

func end(code int) {
	if signal.Ignore(); code == 1 {
		os.Exit(code)
	} else if code == 2 {
		fatal.Fatalf("%d", code)
	} else if code == 3 {
		syscall.Exit(code)
	}
	defer func() { quit := os.Exit; quit(code) }()
}
