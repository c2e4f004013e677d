package ledger

import (
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/sched"
)

var counter atomic.Int64

func decide(c chan int) float64 {
	go func() { c <- rand.IntN(2) }()
	select {
	case <-c:
	default:
	}
	_, _, _, _ = http.StatusOK, os.Args, time.Now(), sched.New
	return 0.5
}
