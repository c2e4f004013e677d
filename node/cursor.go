package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/quorate/quorate/node/api"
)

// cursor is where a list goes on. It is handed out sealed: a client can keep
// it as long as it likes and give it to any node of the cluster, but not make
// one up.
type cursor struct {
	Kind   string `json:"k"` // which list
	Shard  uint32 `json:"s,omitempty"`
	After  []byte `json:"a,omitempty"` // last task ID, or the chain's hash after the last record
	Seq    uint64 `json:"q,omitempty"` // last record, or how many agents
	Offset int64  `json:"o,omitempty"` // where the next record starts
}

const cursorMACBytes = 12

// seal renders a cursor with a MAC under key.
func (c cursor) seal(key []byte) string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("node: cursor: " + err.Error()) // plain fields always marshal
	}
	return base64.RawURLEncoding.EncodeToString(append(cursorMAC(key, b), b...))
}

// openCursor reads a sealed cursor of a kind; "" is the beginning.
func openCursor(key []byte, kind, s string) (cursor, error) {
	if s == "" {
		return cursor{Kind: kind}, nil
	}
	bad := api.Errorf(400, 2, "bad_cursor", api.RetryNo, "the cursor was not made by this cluster, or was altered").
		WithHint("start the list again without a cursor, and pass next_cursor back unchanged")
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < cursorMACBytes || !hmac.Equal(cursorMAC(key, b[cursorMACBytes:]), b[:cursorMACBytes]) {
		return cursor{}, bad
	}
	var c cursor
	if json.Unmarshal(b[cursorMACBytes:], &c) != nil || c.Kind != kind {
		return cursor{}, bad
	}
	return c, nil
}

func cursorMAC(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("quorate cursor v1\x00"))
	h.Write(b)
	return h.Sum(nil)[:cursorMACBytes]
}

// pageLimit checks and defaults a list's limit.
func pageLimit(n int) (int, error) {
	switch {
	case n == 0:
		return api.DefaultPage, nil
	case n < 0 || n > api.MaxPage:
		return 0, api.Errorf(400, 2, "bad_limit", api.RetryNo, "limit %d is not within 1 to %d", n, api.MaxPage)
	}
	return n, nil
}
