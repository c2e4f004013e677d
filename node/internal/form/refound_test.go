package form

import "testing"

func TestRefound(t *testing.T) {
	members := []Voter{{NodeID: "a", PeerAddr: "h:1"}, {NodeID: "b", PeerAddr: "h:2"}}
	ids, err := Refound("q", 3, members, nil)
	again, _ := Refound("q", 3, members, nil)
	if err != nil || len(ids) != 2 || ids[0].ClusterID.IsZero() || ids[0].ClusterID != ids[1].ClusterID || ids[0].RaftID == ids[1].RaftID {
		t.Fatalf("%+v, %v", ids, err)
	}
	if again[0].ClusterID == ids[0].ClusterID || again[0].RaftID == ids[0].RaftID {
		t.Error("the same identities were drawn twice")
	}
	if members[0].RaftID != 0 {
		t.Error("the caller's members were changed")
	}
	for what, bad := range map[string][]Voter{"none": nil, "twice": {{NodeID: "a"}, {NodeID: "a"}}, "no name": {{PeerAddr: "h:1"}}, "too many": make([]Voter, MaxVoters+1)} {
		if _, err := Refound("q", 3, bad, nil); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
