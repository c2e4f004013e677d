package form

import (
	"errors"
	"fmt"
	"slices"
)

// Refound draws the identities of a new cluster whose members are known from
// the beginning, in their order: every raft ID and the cluster ID are new. avoid
// are raft IDs that must not be drawn.
func Refound(cluster string, shards uint32, members []Voter, avoid []uint64) ([]Identity, error) {
	if len(members) == 0 || len(members) > MaxVoters {
		return nil, fmt.Errorf("form: %d members, want 1 to %d", len(members), MaxVoters)
	}
	voters := slices.Clone(members)
	names := map[string]bool{}
	for i := range voters {
		if names[voters[i].NodeID] {
			return nil, fmt.Errorf("form: node ID %q is given twice", voters[i].NodeID)
		}
		names[voters[i].NodeID] = true
		for voters[i].RaftID == 0 || slices.Contains(avoid, voters[i].RaftID) {
			voters[i].RaftID = drawRaftID()
		}
		avoid = append(slices.Clip(avoid), voters[i].RaftID)
	}
	id := drawClusterID()
	out := make([]Identity, len(voters))
	var errs []error
	for i, v := range voters {
		out[i] = Identity{NodeID: v.NodeID, RaftID: v.RaftID, Cluster: cluster, ClusterID: id, Shards: shards, Voters: voters}
		if err := out[i].validate(); err != nil {
			errs = append(errs, fmt.Errorf("form: node %q: %w", v.NodeID, err))
		}
	}
	return out, errors.Join(errs...)
}
