package proc

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are drawn from below the range that systems take for outgoing
// connections (32768 and up on Linux, 49152 and up elsewhere), so that the
// port of a node that is down is not taken before it comes back.
const (
	portMin   = 15000
	portMax   = 32000
	portTries = 200
)

// given are the ports that this process has had: a node that is down finds its
// own free, and what others send there does not reach a stranger.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// freePorts finds n distinct loopback ports on which both TCP and UDP are free.
func freePorts(n int) ([]int, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	ports := make([]int, 0, n)
	for tries := 0; len(ports) < n; tries++ {
		if tries == portTries*n {
			return nil, fmt.Errorf("proc: no %d free ports between %d and %d", n, portMin, portMax)
		}
		p := portMin + rand.IntN(portMax-portMin)
		if given.ports[p] || !portFree(p) {
			continue
		}
		given.ports[p] = true
		ports = append(ports, p)
	}
	return ports, nil
}

func portFree(port int) bool {
	addr := loopback(port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	u.Close()
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
