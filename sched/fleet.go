package sched

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

const (
	// MaxClasses bounds the pairs of fleet and capability: at about 2 KiB each
	// they are 64 MiB. They are never forgotten.
	MaxClasses = 1 << 15
	// MaxFleets bounds the fleets that are told apart; those that come later
	// have one share together.
	MaxFleets = 1024
	// MaxFleetWeight bounds Config.FleetWeights.
	MaxFleetWeight = 1000
	// fairRun is how many handles are taken from one queue while another fleet
	// has work for the same worker.
	fairRun = 8
	// oneTurn is what a handle costs a fleet of weight 1.
	oneTurn = 1_000_000
)

// ErrTooManyClasses is what ClassOf refuses with: there are MaxClasses already.
var ErrTooManyClasses = errors.New("sched: too many classes")

// className is what a class is interned by.
type className struct{ fleet, capability string }

// ClassOf interns a capability as asked for by one fleet. Every fleet has
// queues of its own, and the worker that can do several fleets' work divides
// itself among them by Config.FleetWeights. Known ones are looked up without a
// lock, but for the first few times.
func (s *Scheduler) ClassOf(fleet, capability string) (Class, error) {
	n := className{fleet, capability}
	if c, ok := (*s.names.Load())[n]; ok {
		return c, nil
	}
	return s.classSlow(n)
}

// Class is ClassOf for the tasks of no fleet, and for who names few
// capabilities itself: it panics beyond MaxClasses.
func (s *Scheduler) Class(capability string) Class {
	c, err := s.ClassOf("", capability)
	if err != nil {
		panic(err)
	}
	return c
}

// fleetIndex numbers a fleet. The scheduler's lock is held.
func (s *Scheduler) fleetIndex(name string) uint32 {
	i, ok := s.mu.fleets[name]
	if !ok {
		i = uint32(len(s.mu.fleets))
		if i >= MaxFleets {
			return MaxFleets
		}
		s.mu.fleets[name] = i
	}
	return i
}

// strideOf is what a handle costs a fleet's account.
func (c *Config) strideOf(fleet string) uint64 {
	return oneTurn / uint64(max(c.FleetWeights[fleet], 1))
}

func (c *Config) validateFleets() (errs []error) {
	for name, w := range c.FleetWeights {
		if w < 1 || w > MaxFleetWeight {
			errs = append(errs, fmt.Errorf("sched: weight %d of fleet %q is not within 1 and %d", w, name, MaxFleetWeight))
		}
	}
	return errs
}

// shares is one taker's account of what it took for whom, while several fleets
// had work for it (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM '96).
// The fleet with the smallest account comes next; what it is given is added,
// divided by its weight; who comes back after a pause begins at the account of
// who was served last, and so has saved nothing up.
//
// It belongs to the taker alone, so fairness costs no atomic operation, and
// each worker is fair by itself: an account kept for all of them would let a
// fleet that is served well by some starve at the others. A taker's first
// choices are drawn at random by weight, so that many takers who take once
// each are fair as well.
type shares struct {
	at   uint64   // the account of the fleet served last, as it began
	owed []uint64 // by fleet; 0: never met
}

// of is the account of a class's fleet.
func (sh *shares) of(c *front) uint64 {
	if int(c.fleet) >= len(sh.owed) {
		sh.owed = append(sh.owed, make([]uint64, int(c.fleet)+1-len(sh.owed))...)
	}
	p := &sh.owed[c.fleet]
	if *p == 0 {
		*p = sh.at + 1 + uint64(rand.ExpFloat64()*float64(c.stride))
	}
	*p = max(*p, sh.at)
	return *p
}

// charge enters n handles taken of a class.
func (sh *shares) charge(c *front, n int) {
	sh.at = sh.of(c)
	sh.owed[c.fleet] += uint64(n) * c.stride
}
