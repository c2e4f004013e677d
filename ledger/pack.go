package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// The commands of compliance: which rule packs there are, which of them bind a
// fleet, and what they decided. What a pack means is not the ledger's to know:
// it keeps the text.
const (
	kindPackPut kind = iota + 100
	kindPackRemove
	kindFleetBind
	kindRuled
)

func newPackCommand(k kind) Command {
	switch k {
	case kindPackPut:
		return new(PackPut)
	case kindPackRemove:
		return new(PackRemove)
	case kindFleetBind:
		return new(FleetBind)
	case kindRuled:
		return new(Ruled)
	}
	return nil
}

// Limits of packs.
const (
	MaxPacks         = 64        // in a cluster, versions counted apart: at most 16 MiB in memory
	MaxPackTextBytes = 256 << 10 // of one
	MaxFleetPacks    = 16        // bound to one fleet
	MaxBoundFleets   = 1 << 10
)

// Pack is a rule pack as it was put. A version never changes.
type Pack struct {
	Name   string // ID@version
	Text   []byte // YAML; shared, read only
	By     string
	Millis int64
}

// Binding is the packs that a fleet's intents are checked against.
type Binding struct {
	Fleet string
	Packs []string // names, in the order they are asked
}

// PackPut enters a rule pack.
type PackPut struct {
	Name string
	Text []byte
	By   string
}

func (*PackPut) kind() kind { return kindPackPut }

// Append implements Command.
func (c *PackPut) Append(dst []byte) []byte {
	return appendString(appendBytes(appendString(appendHead(dst, kindPackPut), c.Name), c.Text), c.By)
}

func (c *PackPut) read(r *reader) { c.Name, c.Text, c.By = r.string(), r.bytes(), r.string() }

// PackRemove removes a pack that binds no fleet.
type PackRemove struct{ Name, By string }

func (*PackRemove) kind() kind { return kindPackRemove }

// Append implements Command.
func (c *PackRemove) Append(dst []byte) []byte {
	return appendString(appendString(appendHead(dst, kindPackRemove), c.Name), c.By)
}

func (c *PackRemove) read(r *reader) { c.Name, c.By = r.string(), r.string() }

// FleetBind replaces the packs of a fleet; none unbinds it.
type FleetBind struct {
	Fleet string
	Packs []string
	By    string
}

func (*FleetBind) kind() kind { return kindFleetBind }

// Append implements Command.
func (c *FleetBind) Append(dst []byte) []byte {
	return appendString(appendStrings(appendString(appendHead(dst, kindFleetBind), c.Fleet), c.Packs), c.By)
}

func (c *FleetBind) read(r *reader) { c.Fleet, c.Packs, c.By = r.string(), readStrings(r), r.string() }

// Ruled enters in a task shard's audit log what rule packs decided about an
// intent, whether it became a task or not.
type Ruled struct {
	ID             TaskID // the intent's, had it become a task
	Fleet          string
	Capability     string
	Guarantee      Guarantee
	By             string // who asked
	Code           Code   // OK, or ComplianceRefused
	Packs          string // asked, id@version, comma-separated
	Detail         string
	Evidence       string // digests
	Regulations    []string
	Classification string
	RequestHash    [32]byte
}

func (*Ruled) kind() kind { return kindRuled }

// Append implements Command.
func (c *Ruled) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindRuled), c.ID[:]...)
	dst = appendString(appendString(dst, c.Fleet), c.Capability)
	dst = appendString(append(dst, uint8(c.Guarantee)), c.By)
	dst = appendString(append(dst, uint8(c.Code)), c.Packs)
	dst = appendString(appendString(dst, c.Detail), c.Evidence)
	dst = appendString(appendStrings(dst, c.Regulations), c.Classification)
	return append(dst, c.RequestHash[:]...)
}

func (c *Ruled) read(r *reader) {
	r.fixed(c.ID[:])
	c.Fleet, c.Capability = r.string(), r.string()
	c.Guarantee, c.By = Guarantee(r.u8()), r.string()
	c.Code, c.Packs = Code(r.u8()), r.string()
	c.Detail, c.Evidence = r.string(), r.string()
	c.Regulations, c.Classification = readStrings(r), r.string()
	r.fixed(c.RequestHash[:])
}

func (t *Tasks) ruled(c *Ruled) Outcome {
	switch {
	case c.Code != OK && c.Code != ComplianceRefused:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "rule packs decide nothing of that kind"}
	case c.Packs == "" || max(len(c.Fleet), len(c.By)) > maxNameBytes || len(c.Capability) > maxCapabilityBytes:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "no pack decided, or a name is too long"}
	}
	t.journal.write(&Record{Index: t.index, TimeMillis: t.now, Task: c.ID, Guarantee: c.Guarantee, Code: c.Code, Verb: VerbCompliance,
		Fleet: c.Fleet, Capability: c.Capability, Actor: c.By, RequestDigest: c.RequestHash, Detail: c.Detail,
		Classification: c.Classification, Regulations: c.Regulations, Pack: c.Packs, Evidence: c.Evidence})
	return Outcome{ID: c.ID}
}

// Packs are the rule packs, by name.
func (c *Control) Packs() []Pack { return slices.Clone(c.packs) }

// Bindings are the fleets with packs, by name.
func (c *Control) Bindings() []Binding { return slices.Clone(c.bindings) }

// Binding are the packs that bind a fleet, in the order they are asked.
func (c *Control) Binding(fleet string) []Pack {
	i, ok := c.bindingAt(fleet)
	if !ok {
		return nil
	}
	var out []Pack
	for _, name := range c.bindings[i].Packs {
		if k, ok := c.packAt(name); ok {
			out = append(out, c.packs[k])
		}
	}
	return out
}

func (c *Control) packAt(name string) (int, bool) {
	return slices.BinarySearchFunc(c.packs, name, func(p Pack, name string) int { return strings.Compare(p.Name, name) })
}

func (c *Control) bindingAt(fleet string) (int, bool) {
	return slices.BinarySearchFunc(c.bindings, fleet, func(b Binding, fleet string) int { return strings.Compare(b.Fleet, fleet) })
}

// decidePack decides about a command of this file's; ok is false for others.
func (c *Control) decidePack(x Command) (o Outcome, ok bool) {
	switch x := x.(type) {
	case *PackPut:
		return c.packPut(x), true
	case *PackRemove:
		return c.packRemove(x), true
	case *FleetBind:
		return c.fleetBind(x), true
	}
	return o, false
}

func (c *Control) packPut(x *PackPut) Outcome {
	i, known := c.packAt(x.Name)
	switch {
	case x.Name == "" || max(len(x.Name), len(x.By)) > maxNameBytes || len(x.Text) == 0 || len(x.Text) > MaxPackTextBytes:
		return invalid("the pack's name or text is missing or too long")
	case known && slices.Equal(c.packs[i].Text, x.Text):
		return Outcome{Replayed: true}
	case known:
		return Outcome{Code: Exists, Detail: fmt.Sprintf("pack %s is there with another text: give it a new version", x.Name)}
	case len(c.packs) == MaxPacks:
		return invalid(fmt.Sprintf("there are %d packs, the most there may be: remove one that binds no fleet", MaxPacks))
	}
	c.packs = slices.Insert(c.packs, i, Pack{Name: x.Name, Text: x.Text, By: x.By, Millis: c.now})
	c.touch(rowPack, x.Name)
	c.record(Record{Verb: VerbPackPut, Actor: x.By, Pack: x.Name, Detail: x.Name, RequestDigest: digest(x.Text)})
	return Outcome{}
}

func (c *Control) packRemove(x *PackRemove) Outcome {
	i, known := c.packAt(x.Name)
	switch {
	case len(x.By) > maxNameBytes:
		return invalid("the name of who asks is too long")
	case !known:
		return Outcome{Code: NotFound, Detail: "there is no such pack"}
	}
	for _, b := range c.bindings {
		if slices.Contains(b.Packs, x.Name) {
			return Outcome{Code: BadState, Detail: fmt.Sprintf("pack %s binds fleet %s: bind that to others first", x.Name, b.Fleet)}
		}
	}
	c.packs = slices.Delete(c.packs, i, i+1)
	c.touch(rowPack, x.Name)
	c.record(Record{Verb: VerbPackRemove, Actor: x.By, Pack: x.Name, Detail: x.Name})
	return Outcome{}
}

func (c *Control) fleetBind(x *FleetBind) Outcome {
	i, known := c.bindingAt(x.Fleet)
	switch {
	case x.Fleet == "" || max(len(x.Fleet), len(x.By)) > maxNameBytes || len(x.Packs) > MaxFleetPacks:
		return invalid(fmt.Sprintf("the fleet's name is missing, a name is too long, or there are more than %d packs", MaxFleetPacks))
	case known && slices.Equal(c.bindings[i].Packs, x.Packs), !known && len(x.Packs) == 0:
		return Outcome{Replayed: true}
	case !known && len(c.bindings) == MaxBoundFleets:
		return invalid(fmt.Sprintf("%d fleets have packs, the most that may", MaxBoundFleets))
	}
	for k, name := range x.Packs {
		if _, ok := c.packAt(name); !ok {
			return Outcome{Code: NotFound, Detail: fmt.Sprintf("there is no pack %s", cut(name, maxNameBytes))}
		}
		if slices.Contains(x.Packs[:k], name) {
			return invalid("pack " + name + " is named twice")
		}
	}
	switch {
	case len(x.Packs) == 0:
		c.bindings = slices.Delete(c.bindings, i, i+1)
	case known:
		c.bindings[i].Packs = x.Packs
	default:
		c.bindings = slices.Insert(c.bindings, i, Binding{Fleet: x.Fleet, Packs: x.Packs})
	}
	c.touch(rowBinding, x.Fleet)
	names := strings.Join(x.Packs, ",")
	c.record(Record{Verb: VerbFleetBind, Actor: x.By, Fleet: x.Fleet, Pack: names, Detail: cut(names, maxDetailBytes)})
	return Outcome{}
}

func (p *Pack) append(dst []byte) []byte {
	return appendInt(appendString(appendBytes(appendString(dst, p.Name), p.Text), p.By), p.Millis)
}

func (p *Pack) read(r *reader) {
	p.Name, p.Text, p.By, p.Millis = r.string(), r.bytes(), r.string(), r.int()
}

func (b *Binding) append(dst []byte) []byte {
	return appendStrings(appendString(dst, b.Fleet), b.Packs)
}

// packRow encodes a row of this file's; nil when it is no more.
func (c *Control) packRow(d rowName, b []byte) []byte {
	if d.prefix == rowPack {
		if i, ok := c.packAt(d.name); ok {
			return c.packs[i].append(b)
		}
	} else if i, ok := c.bindingAt(d.name); ok {
		return c.bindings[i].append(b)
	}
	return nil
}

func (c *Control) restorePackRow(prefix byte, r *reader) (name string) {
	if prefix == rowPack {
		var p Pack
		p.read(r)
		c.packs = append(c.packs, p)
		return p.Name
	}
	b := Binding{Fleet: r.string(), Packs: readStrings(r)}
	c.bindings = append(c.bindings, b)
	return b.Fleet
}

// packDigest leaves h as it is when there are none, so that clusters without
// packs keep their digests.
func (c *Control) packDigest(h uint64) uint64 {
	var buf []byte
	for i := range c.packs {
		buf = c.packs[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range c.bindings {
		buf = c.bindings[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	return h
}
