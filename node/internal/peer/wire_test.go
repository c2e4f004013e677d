package peer

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"reflect"
	"strings"
	"testing"
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func TestEveryFrameTypeSurvivesTheWire(t *testing.T) {
	full := frame{kind: 3, shard: 7, millis: 1500, crc: 0xdeadbeef, id: 1 << 60}
	for typ := uint8(1); typ <= typeLast; typ++ {
		in := full
		in.typ, in.body = typ, []byte("body")
		var p [maxPrefixBytes]byte
		want := frame{typ: typ, body: in.body}
		want.parse(in.prefix(&p)) // drops what this type does not carry
		var got frame
		if err := newFrameReader(bytes.NewReader(appendFrame(nil, &in)), 4).next(&got); err != nil {
			t.Fatal(typ, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("type %d: %+v, want %+v", typ, got, want)
		}
	}
}

// The layout is what other versions will have to read.
func TestFrameLayout(t *testing.T) {
	got := appendFrame(nil, &frame{typ: typeRaft, shard: 0x01020304, body: []byte("hi")})
	want := []byte{8, 0, 0, 0, 0, 0, 0, 0, typeRaft, 0, 4, 3, 2, 1, 'h', 'i'}
	crc := checksum(want[8:])
	copy(want[4:], []byte{byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24)})
	if !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

func TestHelloRoundTripAndTruncation(t *testing.T) {
	h := hello{version: 1, purpose: forSnapshot, clusterID: testCluster, raftID: 1, wanted: 2, incarnation: 3,
		cluster: strings.Repeat("c", MaxNameBytes), nodeID: strings.Repeat("n", MaxNameBytes)}
	b := h.append(nil)
	if len(b) > maxHelloBytes {
		t.Fatalf("%d bytes, limit %d", len(b), maxHelloBytes)
	}
	if got, err := parseHello(b); err != nil || got != h {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range len(b) {
		if _, err := parseHello(b[:n]); !errors.Is(err, errHello) {
			t.Fatalf("%d of %d bytes accepted", n, len(b))
		}
	}
	if _, err := parseHello(append(b, 0)); !errors.Is(err, errHello) {
		t.Fatal("trailing byte accepted")
	}
}

func TestRemoteErrorCodec(t *testing.T) {
	for _, e := range []RemoteError{{}, {"a", ""}, {"", "b"}, {strings.Repeat("c", 255), "text"}} {
		if got := parseError(appendError(nil, &e)); *got != e {
			t.Errorf("%+v, want %+v", *got, e)
		}
	}
	for _, b := range [][]byte{nil, {5, 'a'}} {
		if got := parseError(b); got.Code != CodeInternal {
			t.Errorf("%+v", got)
		}
	}
}

// FuzzFrames: whatever arrives is either an error or a frame that, encoded
// again, reads back the same; memory stays within the limit.
func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(nil, &frame{typ: typeRequest, id: 1, kind: 2, millis: 3, body: []byte("body")}))
	f.Add(appendRaw(typeRaft, flagS2, []byte("\x00\x00\x00\x00\x05\x10hello")))
	f.Add(append(appendFrame(nil, &frame{typ: typePing, id: 9}), 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b), 1<<10)
		for {
			var got, again frame
			if err := fr.next(&got); err != nil {
				return
			}
			if len(got.body) > 1<<10 {
				t.Fatalf("%d bytes over the limit", len(got.body))
			}
			if err := newFrameReader(bytes.NewReader(appendFrame(nil, &got)), 1<<10).next(&again); err != nil || !reflect.DeepEqual(got, again) {
				t.Fatalf("%+v became %+v, %v", got, again, err)
			}
		}
	})
}

// FuzzPayload goes behind the checksum, where plain fuzzing does not get.
func FuzzPayload(f *testing.F) {
	f.Add(uint8(typeRaft), uint8(flagS2), []byte("\x00\x00\x00\x00\x05\x10hello"))
	f.Add(uint8(typeEnd), uint8(0), make([]byte, 12))
	f.Fuzz(func(t *testing.T, typ, flags uint8, payload []byte) {
		var got frame
		err := newFrameReader(bytes.NewReader(appendRaw(typ, flags, payload)), 1<<10).next(&got)
		if err == nil && (typ == 0 || typ > typeLast || flags > flagS2 || len(got.body) > 1<<10) {
			t.Fatalf("accepted %+v", got)
		}
		if err == io.EOF {
			t.Fatal("a bad frame is not a clean end")
		}
	})
}

func FuzzHello(f *testing.F) {
	h := hello{version: 1, purpose: forPeer, raftID: 1, cluster: "c", nodeID: "n"}
	f.Add(h.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseHello(b)
		if err == nil && got.version == protocolVersion && !bytes.Equal(got.append(nil), b) {
			t.Fatalf("%+v is not % x", got, b)
		}
	})
}
