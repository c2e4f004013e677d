package ledger

// Recall asks for the task that a key names, and answers as declaring it again
// would; when there is none, [NotFound], and nothing changes. Rules decide
// about new intents only: who is refused by them asks this first.
type Recall struct {
	Fleet, Key            string
	RequestHash           [32]byte
	Agent, Node, Instance string // as in Declare, if it is for its agent to perform
}

func (*Recall) kind() kind { return kindRecall }

// Append implements Command.
func (c *Recall) Append(dst []byte) []byte {
	dst = appendString(appendString(appendHead(dst, kindRecall), c.Fleet), c.Key)
	dst = append(dst, c.RequestHash[:]...)
	return appendString(appendString(appendString(dst, c.Agent), c.Node), c.Instance)
}

func (c *Recall) read(r *reader) {
	c.Fleet, c.Key = r.string(), r.string()
	r.fixed(c.RequestHash[:])
	c.Agent, c.Node, c.Instance = r.string(), r.string(), r.string()
}

func (t *Tasks) recall(c *Recall) Outcome {
	if c.Key == "" || len(c.Key) > maxKeyBytes || max(len(c.Fleet), len(c.Agent), len(c.Node), len(c.Instance)) > maxNameBytes {
		return Outcome{Code: Invalid, Detail: "the key is missing, or a name is too long"}
	}
	fleet, name := []byte(c.Fleet), []byte(c.Key)
	key := keyHash(fleet, name)
	e := t.named(fleet, name, &key)
	if e == nil {
		return Outcome{Code: NotFound}
	}
	return t.declaredAgain(e.id, &Declare{RequestHash: c.RequestHash, Agent: c.Agent, Node: c.Node, Instance: c.Instance})
}
