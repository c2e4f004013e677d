package node

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An agent has one session in the cluster. A node where it opens one tells the
// others, and theirs are fenced; nobody is asked, so that a session is opened
// without a quorum. Two that open at the same moment hear of each other, and
// both must come to the same end however late the news: sessions of an agent
// have turns, each one more than any the node has heard of or the resume token
// tells, the higher turn stays, and of two with the same turn the one at the
// node with the higher raft ID. The node whose session stays says so to the
// other, which may have missed it. Between sessions further apart than
// sessionCross the newer stays: turns are not remembered for ever.

// A resume token is turn u32, random, MAC.
const resumeNonceBytes = 12

func (n *core) resumeMAC(agent string, nonce []byte) []byte {
	m := hmac.New(sha256.New, n.cursorKey)
	m.Write([]byte("session\x00"))
	m.Write(nonce)
	m.Write([]byte(agent))
	return m.Sum(nil)[:16]
}

func (n *core) resumeToken(agent string, turn uint32) string {
	nonce := make([]byte, resumeNonceBytes)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	binary.BigEndian.PutUint32(nonce, turn)
	return base64.RawURLEncoding.EncodeToString(append(nonce, n.resumeMAC(agent, nonce)...))
}

func (n *core) resumes(agent, token string) (turn uint32, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= resumeNonceBytes || !hmac.Equal(b[resumeNonceBytes:], n.resumeMAC(agent, b[:resumeNonceBytes])) {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// announceSession tells the other nodes that an agent connected here.
func (n *core) announceSession(agent string, turn uint32) {
	for _, v := range n.others() {
		n.announceTo(v.RaftID, agent, turn)
	}
}

func (n *core) announceTo(id uint64, agent string, turn uint32) {
	n.peers.Notify(id, notifySession, []byte(agent+"\x00"+strconv.FormatUint(uint64(turn), 10)))
}

// sessionCross is within what time turns decide between two sessions of an
// agent; an order in time is beyond doubt only if no news is so late.
const sessionCross = 5 * time.Second

// turns remembers the sessions that were heard of, for sessionCross at least
// and twice that at most.
type turns struct {
	clock func() time.Time
	mu    struct {
		sync.Mutex
		now, before map[string]uint32
		since       time.Time
	}
}

// hear notes a session's turn.
func (t *turns) hear(agent string, turn uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rotate()
	t.mu.now[agent] = max(t.mu.now[agent], t.mu.before[agent], turn)
}

// next is the turn of a session that opens here; least is what its token tells.
func (t *turns) next(agent string, least uint32) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rotate()
	turn := max(least, t.mu.now[agent]+1, t.mu.before[agent]+1) // the first is 1
	t.mu.now[agent] = turn
	return turn
}

// rotate forgets. Call with the lock held.
func (t *turns) rotate() {
	if now := t.clock(); t.mu.now == nil || now.Sub(t.mu.since) > sessionCross {
		t.mu.before, t.mu.now, t.mu.since = t.mu.now, map[string]uint32{}, now
	}
}

// sessionElsewhere is announceSession's other end.
func (n *core) sessionElsewhere(from uint64, body string) {
	agent, number, _ := strings.Cut(body, "\x00")
	turn, _ := strconv.ParseUint(number, 10, 32) // an old version tells none
	n.turns.hear(agent, uint32(turn))
	stays, mine := false, uint32(0)
	fenced := n.sessions.moved(agent, n.nowMillis(), func(x *session) bool {
		mine = x.turn
		older := n.cfg.Now().Sub(x.opened) > sessionCross || uint32(turn) > mine || uint32(turn) == mine && n.id.RaftID < from
		stays = !older
		return older
	})
	if fenced {
		n.cfg.Logger.Warn("agent connected again at another node: its session here is fenced", "layer", 2, "agent", agent, "node", n.nodeName(from))
	}
	if stays {
		n.announceTo(from, agent, mine)
	}
}
