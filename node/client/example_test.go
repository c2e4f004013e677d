package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// An agent that counts the bytes of what it is given, until ctx ends.
func ExampleClient_Work() {
	ctx := context.Background()
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:7700", "http://127.0.0.1:7710"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	m := api.Manifest{AgentID: "counter-1", MaxTasks: 4, Capabilities: []api.Capability{{Action: "count", Target: "bytes"}}}
	err = c.Work(ctx, m, func(_ context.Context, t *client.Task) (any, error) {
		return map[string]int{"bytes": len(t.Input)}, nil
	})
	fmt.Println(err)
}

// Many tasks over one stream, a verdict for each.
func ExampleClient_Submitter() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s := c.Submitter()
	defer s.Close()
	verdicts, err := s.Submit(context.Background(), []api.TaskSpec{
		{Action: "count", Target: "bytes", Input: json.RawMessage(`"some"`), IdempotencyKey: "some"},
		{Action: "count", Target: "bytes", Input: json.RawMessage(`"more"`), IdempotencyKey: "more"},
	})
	for _, v := range verdicts {
		fmt.Println(v.TaskID, v.State, v.Error)
	}
	fmt.Println(err)
}

// A payment that is made once, however often this is called.
func ExampleClient_Action() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	intent := api.ActionRequest{AgentID: "payer-1", TaskSpec: api.TaskSpec{Action: "pay", Target: "invoice", IdempotencyKey: "invoice-17"}}
	result, err := c.Action(context.Background(), intent, func(_ context.Context, v api.ActionVerdict) (any, error) {
		return "paid with key " + v.IdempotencyKey, nil // the bank honours the key
	})
	fmt.Println(string(result), err)
}
