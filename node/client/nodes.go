package client

import (
	"context"
	"net/url"

	"github.com/quorate/quorate/node/api"
)

// Nodes lists the cluster's nodes.
func (c *Client) Nodes(ctx context.Context) (api.NodeList, error) {
	return get[api.NodeList](ctx, c, answerWithin, "/v1/nodes", nil)
}

// AddNode admits a node that is to be started; peerAddr may be empty.
func (c *Client) AddNode(ctx context.Context, nodeID, peerAddr string) (api.ClusterNode, error) {
	var n api.ClusterNode
	return n, c.call(ctx, answerWithin, "POST", "/v1/nodes", api.AddNode{NodeID: nodeID, PeerAddr: peerAddr}, &n)
}

// ChangeNode promotes, drains or removes a node.
func (c *Client) ChangeNode(ctx context.Context, nodeID, verb string) (api.ClusterNode, error) {
	var n api.ClusterNode
	err := c.call(ctx, answerWithin, "POST", "/v1/nodes/"+url.PathEscape(nodeID)+"/"+verb, nil, &n)
	return n, err
}
