package ledger

// entry is one task in memory: open, or ended and not yet in the checkpoint.
type entry struct {
	id      TaskID
	key     [16]byte // of (fleet, idempotency key); zero: none
	request [32]byte
	class   *class
	spec    []byte // canonical, as submitted; never changed, so readers may keep it
	result  []byte // likewise
	err     string
	agent   string // of the last attempt, or who holds the replicated lease
	x       *Txn   // what a plain task does not have; nil: it is one

	epoch                               uint64
	created, updated, completed         int64
	notBefore, ready, deadline, leaseMs int64

	attempts  uint32
	era       uint32 // that the row of its key is in
	state     State
	priority  Priority
	guarantee Guarantee
	ended     ending
	flags     entryFlags
	listed    uint32 // Tasks.freeze: in Tasks.dirty; one less: frozen and not encoded; 0: neither
}

// ending is how the last attempt ended: it tells a repeated call from a stale
// one. Numbers are part of the row encoding.
type ending uint8

const (
	endNone ending = iota
	endCompleted
	endFailed
	endExpired
	endSettled // by somebody else than the holder
	endErased  // its payload is gone
	endingEnd
)

type entryFlags uint8

const (
	flagOpenRow  entryFlags = 1 << iota // has a row among the open tasks (in the checkpoint, or frozen)
	flagEndedRow                        // has a row among the ended ones
	flagKeyRow                          // its key has a row
	flagUnused                          // the slot is free
	flagEvicted                         // nobody sees it; its rows go with the next checkpoint
	flagRelated                         // its spec names a session or a parent
)

const (
	slabChunkBits = 8
	slabChunk     = 1 << slabChunkBits
)

// slab keeps entries at numbered places that never move. Place 0 is never
// used: a table's empty slot.
type slab struct {
	chunks []*[slabChunk]entry
	free   []uint32
	used   int
	bytes  int // of the specs of the entries in use
}

func (s *slab) at(i uint32) *entry { return &s.chunks[i>>slabChunkBits][i%slabChunk] }

// take returns a free place; the entry there is zero.
func (s *slab) take() (uint32, *entry) {
	if len(s.free) == 0 {
		first := uint32(len(s.chunks)) << slabChunkBits
		s.chunks = append(s.chunks, new([slabChunk]entry))
		for i := slabChunk - 1; i >= 0; i-- { // lowest on top
			if p := first + uint32(i); p != 0 {
				s.free = append(s.free, p)
			}
		}
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.used++
	e := s.at(i)
	e.flags = 0
	return i, e
}

func (s *slab) put(i uint32) {
	s.bytes -= len(s.at(i).spec)
	*s.at(i) = entry{flags: flagUnused}
	s.free = append(s.free, i)
	s.used--
}
