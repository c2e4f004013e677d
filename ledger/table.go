package ledger

import "encoding/binary"

// table finds slab places by 16-byte names. It is cut into parts that grow
// each on its own: one table of a quarter of a million names took 20 to 40 ms
// to grow, and Apply waited for it.
type table struct {
	parts  [tableParts]part
	byKey  bool // entries are named by their key; otherwise by their ID
	places *slab
}

// part is an open-addressing hash table with linear probing, where removal
// moves what follows back, so no tombstones gather. A slot has 32 bits of the
// hash beside the place, so a probe reads an entry only when it is most likely
// the one.
//
// A Go map[[16]byte]uint32 does the same at about twice the cost a look-up
// and keeps the names a second time.
type part struct {
	slots []tableSlot // a power of two of them
	count int
}

type tableSlot struct{ tag, place uint32 } // place 0: empty

const (
	tablePartBits = 6 // of a tag, the highest: the lowest say where in the part
	tableParts    = 1 << tablePartBits
	minPart       = 16 // slots
)

func newTable(places *slab, byKey bool) table {
	t := table{byKey: byKey, places: places}
	slots := make([]tableSlot, tableParts*minPart)
	for i := range t.parts {
		t.parts[i].slots = slots[i*minPart : (i+1)*minPart : (i+1)*minPart]
	}
	return t
}

// count is how many names there are.
func (t *table) count() (n int) {
	for i := range t.parts {
		n += t.parts[i].count
	}
	return n
}

func (t *table) part(tag uint32) *part { return &t.parts[tag>>(32-tablePartBits)] }

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
	slots := t.part(tag).slots
	mask := uint32(len(slots) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		s := slots[i]
		if s.place == 0 {
			return 0
		}
		if s.tag == tag && *t.name(s.place) == *name {
			return s.place
		}
	}
}

// add enters the entry at place, whose name is not there.
func (t *table) add(place uint32) {
	tag := tagOf(t.name(place))
	p := t.part(tag)
	if p.count*4 >= len(p.slots)*3 {
		p.grow()
	}
	p.count++
	p.insert(tableSlot{tag: tag, place: place})
}

func (p *part) insert(s tableSlot) {
	mask := uint32(len(p.slots) - 1)
	i := s.tag & mask
	for p.slots[i].place != 0 {
		i = (i + 1) & mask
	}
	p.slots[i] = s
}

func (p *part) grow() {
	old := p.slots
	p.slots = make([]tableSlot, 2*len(old))
	for _, s := range old {
		if s.place != 0 {
			p.insert(s)
		}
	}
}

// remove takes the name of the entry at place out.
func (t *table) remove(place uint32) {
	tag := tagOf(t.name(place))
	p := t.part(tag)
	mask := uint32(len(p.slots) - 1)
	i := tag & mask
	for p.slots[i].place != place {
		if p.slots[i].place == 0 {
			panic("ledger: invariant: an entry is not in its table")
		}
		i = (i + 1) & mask
	}
	p.count--
	for j := i; ; { // move back what would not be found past the hole
		j = (j + 1) & mask
		s := p.slots[j]
		if s.place == 0 {
			break
		}
		if home := s.tag & mask; (j-home)&mask >= (j-i)&mask {
			p.slots[i] = s
			i = j
		}
	}
	p.slots[i] = tableSlot{}
}
