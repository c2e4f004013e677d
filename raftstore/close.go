package raftstore

import (
	"errors"
	"fmt"
	"time"
)

// Close writes a last state checkpoint, stops everything and waits for it. After a fatal error it writes nothing more
// and returns that error, at the latest after abandonWait: on a failed disk a goroutine may be stuck for good.
func (s *Store) Close() error { return s.stop(false) }

func (s *Store) stop(abort bool) error {
	s.life.Lock()
	again := s.life.closed
	s.life.closed = true
	s.life.Unlock()
	if again {
		return nil
	}
	close(s.quit)
	s.env.group.pace.hurry.Store(true)
	s.admin.Lock() // what Create or Drop began comes to its end; nothing begins any more
	defer s.admin.Unlock()
	if !s.started.Swap(true) {
		for _, sh := range s.all() { // never ran
			sh.replica.Stop()
			sh.mail.close()
			close(sh.done)
		}
		for _, e := range s.env.engines {
			close(e.done)
		}
	}
	for _, sh := range s.all() {
		sh.mail.finish(abort)
	}
	for _, e := range s.env.engines {
		e.finish(abort)
	}
	s.loops.Wait()
	for _, e := range s.env.engines {
		select {
		case <-e.done:
		case <-s.failed:
			return s.abandon()
		}
	}
	s.cancel()
	s.work.Wait()
	select {
	case <-s.failed:
		return s.abandon()
	default:
	}
	err := s.guard(func() error {
		if abort {
			return s.closeFiles()
		}
		return errors.Join(s.marks.flush(), s.closeFiles())
	})
	if err != nil {
		return fmt.Errorf("raftstore: close: %w", err)
	}
	return nil
}

// abandonWait is how long Close waits, after a fatal error, for what may be stuck on a failed disk.
const abandonWait = 2 * time.Second

func (s *Store) abandon() error {
	s.cancel()
	ended := make(chan struct{})
	go func() { // outlives Close only when something is stuck, and then only the end of the process helps
		defer close(ended)
		for _, e := range s.env.engines {
			<-e.done
		}
		s.work.Wait()
		_ = s.guard(s.closeFiles) // the fatal error is the one to report
	}()
	t := time.NewTimer(abandonWait)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	s.life.Lock()
	defer s.life.Unlock()
	return s.life.err
}
