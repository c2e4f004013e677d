package web

import (
	"context"
	"net/http"

	"github.com/quorate/quorate/node/api"
)

// The operations on the cluster's nodes.

func nodeOperations() []operation {
	return []operation{
		{"GET", "/v1/nodes", "list_nodes", "List the cluster's nodes: members, admitted ones that have not come, removed ones.", nil, api.NodeList{}, nil, one, (*server).nodes},
		{"POST", "/v1/nodes", "add_node", "Admit a node by its ID; start it with --join afterwards. An ID that is there, or was removed, is refused.", api.AddNode{}, api.ClusterNode{}, nil, one, (*server).addNode},
		{"POST", "/v1/nodes/{id}/promote", "promote_node", "Make a joining node that has caught up a full member now, or end a drain.", nil, api.ClusterNode{}, nil, one, nodeOp(Backend.PromoteNode)},
		{"POST", "/v1/nodes/{id}/drain", "drain_node", "Move a node's replicas and leaders to others.", nil, api.ClusterNode{}, nil, one, nodeOp(Backend.DrainNode)},
		{"POST", "/v1/nodes/{id}/remove", "remove_node", "Have a node leave for good, dead or alive: its identity never returns.", nil, api.ClusterNode{}, nil, one, nodeOp(Backend.RemoveNode)},
		{"POST", "/v1/nodes/join", "join", "What an admitted node asks for; not for clients.", api.JoinRequest{}, api.JoinAnswer{}, nil, one, (*server).joinNode},
	}
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Nodes(r.Context())
	return answer(s, w, v, err)
}

func (s *server) addNode(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.AddNode](r)
	if err != nil {
		return err
	}
	v, err := s.b.AddNode(r.Context(), in.NodeID, in.PeerAddr, actor(r))
	return answer(s, w, v, err)
}

func (s *server) joinNode(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.JoinRequest](r)
	if err != nil {
		return err
	}
	v, err := s.b.Join(r.Context(), in)
	return answer(s, w, v, err)
}

func nodeOp(op func(Backend, context.Context, string, string) (api.ClusterNode, error)) func(*server, http.ResponseWriter, *http.Request) error {
	return func(s *server, w http.ResponseWriter, r *http.Request) error {
		v, err := op(s.b, r.Context(), r.PathValue("id"), actor(r))
		return answer(s, w, v, err)
	}
}
