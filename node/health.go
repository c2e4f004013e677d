package node

import (
	"fmt"
	"strings"

	"github.com/quorate/quorate/node/api"
)

// checkReplicas: are replicas that applied the same log in the same state?
func checkReplicas(c *api.Cluster, add addCheck) {
	var bad []string
	for _, s := range c.Shards {
		if len(s.Diverged) > 0 {
			bad = append(bad, fmt.Sprintf("%d (%s)", s.Shard, strings.Join(s.Diverged, ", ")))
		}
	}
	if len(bad) > 0 {
		add(5, "replicas", "fail", "a node that a majority contradicts stops by itself and leaves diverged.json in its data directory: keep that directory, and replace the node by a new one",
			"in another state than the leader: shard %s", strings.Join(bad, "; "))
		return
	}
	add(5, "replicas", "ok", "", "no replica was seen in another state than its leader")
}
