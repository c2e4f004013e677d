package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

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

// A task, and its end.
func ExampleClient_Submit() {
	ctx := context.Background()
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:7700", "http://127.0.0.1:7710"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	v, err := c.Submit(ctx, api.TaskSpec{Action: "count", Target: "bytes", Input: json.RawMessage(`"four"`)})
	if err != nil {
		log.Fatal(err) // refused; what was lost on the way was asked again
	}
	task, err := c.Wait(ctx, v.TaskID)
	fmt.Println(task.State, string(task.Result), err)
}

// The end of a task that was submitted before, by its ID.
func ExampleClient_Wait() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	task, err := c.Wait(ctx, "01-000001903f5c2c00-7d3f6a9b21c4")
	if err != nil {
		log.Fatal(err)
	}
	if task.CompletedAt == nil {
		fmt.Println("still", task.State)
	}
}

// Some tasks in one request, a verdict for each.
func ExampleClient_SubmitBatch() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	specs := []api.TaskSpec{{Action: "vet", Target: "go", IdempotencyKey: "vet-1"}, {Action: "vet", Target: "go", IdempotencyKey: "vet-2"}}
	verdicts, err := c.SubmitBatch(context.Background(), specs)
	if err != nil {
		log.Fatal(err)
	}
	for i, v := range verdicts {
		if v.Error != nil {
			fmt.Println(specs[i].IdempotencyKey, "was refused:", v.Error)
		}
	}
}

// What happens from now on, across the deaths of nodes; kept is where to go on.
func ExampleClient_Events() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	kept := ""
	err = c.Events(context.Background(), kept, func(ev api.Event) error {
		fmt.Println(ev.Record.Verb, ev.Record.TaskID, ev.Record.AgentID)
		kept = ev.ID
		return nil
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
