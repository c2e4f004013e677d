package ledger

import "encoding/binary"

// table finds slab places by 16-byte names: an open-addressing hash table
// with linear probing, where removal moves what follows back, so no
// tombstones gather. A slot has 32 bits of the hash beside the place, so a
// probe reads an entry only when it is most likely the one.
//
// A Go map[[16]byte]uint32 does the same at about twice the cost a look-up
// and keeps the names a second time.
type table struct {
	slots  []tableSlot // a power of two of them
	count  int
	byKey  bool // entries are named by their key; otherwise by their ID
	places *slab
}

type tableSlot struct{ tag, place uint32 } // place 0: empty

const minTable = 1024

func newTable(places *slab, byKey bool) table {
	return table{slots: make([]tableSlot, minTable), byKey: byKey, places: places}
}

// tagOf hashes a name: IDs end in random bits, keys are digests.
func tagOf(name *[16]byte) uint32 {
	return uint32(mix(binary.LittleEndian.Uint64(name[:]), binary.LittleEndian.Uint64(name[8:])) >> 32)
}

func (t *table) name(place uint32) *[16]byte {
	e := t.places.at(place)
	if t.byKey {
		return &e.key
	}
	return (*[16]byte)(&e.id)
}

// find returns the place of name, 0 when it has none.
func (t *table) find(name *[16]byte) uint32 {
	tag := tagOf(name)
	mask := uint32(len(t.slots) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s.place == 0 {
			return 0
		}
		if s.tag == tag && *t.name(s.place) == *name {
			return s.place
		}
	}
}

// add enters a name that is not there, at its entry's place.
func (t *table) add(place uint32) {
	if t.count*4 >= len(t.slots)*3 {
		t.grow()
	}
	t.count++
	t.insert(tableSlot{tag: tagOf(t.name(place)), place: place})
}

func (t *table) insert(s tableSlot) {
	mask := uint32(len(t.slots) - 1)
	i := s.tag & mask
	for t.slots[i].place != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = s
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]tableSlot, 2*len(old))
	for _, s := range old {
		if s.place != 0 {
			t.insert(s)
		}
	}
}

// remove takes the name of the entry at place out.
func (t *table) remove(place uint32) {
	mask := uint32(len(t.slots) - 1)
	i := tagOf(t.name(place)) & mask
	for t.slots[i].place != place {
		if t.slots[i].place == 0 {
			panic("ledger: invariant: an entry is not in its table")
		}
		i = (i + 1) & mask
	}
	t.count--
	for j := i; ; { // move back what would not be found past the hole
		j = (j + 1) & mask
		s := t.slots[j]
		if s.place == 0 {
			break
		}
		if home := s.tag & mask; (j-home)&mask >= (j-i)&mask {
			t.slots[i] = s
			i = j
		}
	}
	t.slots[i] = tableSlot{}
}
