package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
)

// request answers what another node asks; a handler's own check says whether
// this node is the right one to ask.
func (n *core) request(ctx context.Context, from uint64, m method, body []byte) ([]byte, error) {
	switch m {
	case methodDo:
		return n.serveDo(ctx, body), nil
	case methodTask:
		return serve(ctx, body, n.taskHere), nil
	case methodTasks:
		return serve(ctx, body, n.tasksHere), nil
	case methodRenew:
		return serve(ctx, body, n.renewHere), nil
	case methodSteal:
		return n.serveSteal(body), nil
	case methodHeld:
		return serve(ctx, body, n.heldHere), nil
	case methodRob:
		return serve(ctx, body, n.serveRob), nil
	case methodTransfer:
		return serve(ctx, body, n.transferHere), nil
	case methodGiveBack:
		return serve(ctx, body, n.giveBackHere), nil
	case methodElsewhere:
		return serve(ctx, body, n.elsewhereHere), nil
	case methodHolding:
		return serve(ctx, body, n.holdingHere), nil
	case methodStats:
		return serve(ctx, body, n.statsHere), nil
	case methodAgents:
		return serve(ctx, body, n.agentsHere), nil
	case methodSeen:
		return serve(ctx, body, n.seenHere), nil
	case methodGone:
		return serve(ctx, body, n.goneHere), nil
	case methodRenewMany:
		return serve(ctx, body, n.renewManyHere), nil
	case methodPacks:
		return serve(ctx, body, n.packsHere), nil
	case methodRetention:
		return serve(ctx, body, n.retentionsHere), nil
	case methodWhy:
		return serve(ctx, body, n.whyHere), nil
	case methodJournal:
		shard, err := strconv.ParseUint(string(body), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("node: shard %q from %x", body, from)
		}
		return n.journalHere(uint32(shard))
	}
	if answer, known := n.memberRequest(ctx, m, body); known {
		return answer, nil
	}
	if answer, known := n.auditRequest(ctx, m, body); known {
		return answer, nil
	}
	return nil, fmt.Errorf("node: unknown request %d from %x", m, from)
}

func (n *core) notified(from uint64, kind uint8, body []byte) {
	switch kind {
	case notifyLoad:
		var s sighting
		if json.Unmarshal(body, &s) == nil && s.Load != nil {
			n.roster.says(s.Agent, *s.Load)
		}
	case notifyDepths:
		n.heard(from, body)
	case notifyIdle:
		n.thieves.idleHeard(from, body)
	case notifySpare:
		n.thieves.spareHeard(from, body)
	case notifyWaits:
		n.idlers.heard(from, body)
	case notifyGift:
		n.giftHeard(body)
	case notifySession:
		n.sessionElsewhere(from, string(body))
	case notifyLeads:
		n.leadsHeard(from, body)
	case notifyConfirm:
		n.grantsConfirmed(body)
	}
}
