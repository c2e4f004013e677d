package gossip

import (
	"net"
	"strings"
	"time"
)

// rejoin contacts seeds and known addresses that are not among the living, until Close.
func (g *Gossip) rejoin() {
	wait := rejoinMin
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-timer.C:
		case <-g.again:
			wait = rejoinMin
		}
		missing := g.missing()
		for _, addr := range missing {
			if g.ctx.Err() != nil {
				return
			}
			g.contact(addr)
		}
		if wait = min(2*wait, g.cfg.RejoinMax); len(missing) == 0 {
			wait = g.cfg.RejoinMax
		}
		timer.Reset(wait)
	}
}

// missing resolves seeds and known addresses and leaves out who is alive, or this node.
func (g *Gossip) missing() []string {
	skip := map[string]bool{g.addr: true, "": true}
	for _, m := range g.table.list() {
		skip[m.Addr] = true
	}
	all := g.cfg.Seeds
	if g.cfg.Known != nil {
		all = append(all[:len(all):len(all)], g.cfg.Known()...)
	}
	var out []string
	for _, name := range all {
		for _, addr := range g.resolve(name) {
			if !skip[addr] {
				skip[addr] = true
				out = append(out, addr)
			}
		}
	}
	return out
}

// resolve turns host:port into IP:port; memberlist's own way asks name servers
// in a manner some of them do not answer.
func (g *Gossip) resolve(name string) []string {
	host, portName, err := net.SplitHostPort(name)
	if err != nil {
		g.logs.warn("seed is not host:port: "+name, "err", err)
		return nil
	}
	port, err := net.DefaultResolver.LookupPort(g.ctx, "tcp", portName)
	if err != nil {
		g.logs.warn("seed has no port: "+name, "err", err)
		return nil
	}
	ips, err := net.DefaultResolver.LookupIP(g.ctx, "ip", host)
	if err != nil {
		g.cfg.Logger.Debug("resolving seed", "layer", layer, "seed", name, "err", err)
		return nil
	}
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = hostPort(ip, port)
	}
	return out
}

// contact exchanges states with one address.
func (g *Gossip) contact(addr string) {
	_, err := g.list.Join([]string{addr})
	switch {
	case err == nil || g.ctx.Err() != nil:
	case isRefusal(err):
		g.logs.warn("seed "+addr+" is there, but ends the exchange", "err", err,
			"hint", "do both nodes name the same cluster, and have the same gossip key?")
		select {
		case g.refused <- refusal{addr, err}:
		default:
		}
	default:
		g.cfg.Logger.Debug("contacting seed", "layer", layer, "seed", addr, "err", err)
	}
}

// isRefusal tells a node that hung up or speaks another key from one that is
// not there or slow. memberlist flattens its errors into text.
func isRefusal(err error) bool {
	s := err.Error()
	return !strings.Contains(s, "dial ") && !strings.Contains(s, "timeout")
}
