package node

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// An agent has one session in the cluster. A node where it opens one tells the
// others, and theirs are fenced; nobody is asked, so that a session is opened
// without a quorum. Two that open at the same moment hear of each other: within
// sessionCross the one with the later turn stays (a session that was resumed has
// one more than the one before), or else the one at the node with the higher
// raft ID. The node whose session stays says so to the other, which may have
// missed its announcement.

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

// sessionCross is within what time two sessions of one agent count as opened
// at once.
const sessionCross = 50 * time.Millisecond

// sessionElsewhere is announceSession's other end.
func (n *core) sessionElsewhere(from uint64, body string) {
	agent, number, _ := strings.Cut(body, "\x00")
	turn, _ := strconv.ParseUint(number, 10, 32) // absent or not: the first turn
	stays, mine := false, uint32(0)
	fenced := n.sessions.moved(agent, n.nowMillis(), func(x *session) bool {
		mine = x.turn
		older := time.Since(x.opened) > sessionCross || uint32(turn) > mine || uint32(turn) == mine && n.id.RaftID < from
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
