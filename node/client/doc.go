// Package client speaks to a Quorate cluster from Go: HTTP/JSON for single
// operations, streams (quorate.v1.Work) for work and for many tasks.
//
// # The ten lines for each job
//
// Submit a task and wait for its end:
//
//	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:7700"}})
//	v, err := c.Submit(ctx, api.TaskSpec{Action: "vet", Target: "go", Input: json.RawMessage(`{"path":"./x"}`)})
//	task, err := c.Wait(ctx, v.TaskID)
//
// Submit many: [Client.Submitter] batches what callers hand in at once.
//
//	s := c.Submitter()
//	defer s.Close()
//	verdicts, err := s.Submit(ctx, specs)
//
// Work: tasks are pushed, leases renewed, completions batched; when the node
// dies the agent goes on at another with what it holds.
//
//	err := c.Work(ctx, manifest, func(ctx context.Context, t *client.Task) (any, error) {
//		return vet(ctx, t.Input)
//	})
//
// Perform an effect that must not be repeated blindly:
//
//	result, err := c.Action(ctx, intent, func(ctx context.Context, v api.ActionVerdict) (any, error) {
//		return pay(ctx, v.IdempotencyKey, v.Epoch)
//	})
//
// Follow what happens: c.Events(ctx, "start", func(ev api.Event) error { … }).
//
// # Outcomes
//
// There are three: done, refused, and unknown (the connection broke half-way).
// Every operation may be repeated after an unknown: reads, and changes that
// carry a key or an epoch, so a submit without an idempotency key gets one. The
// client repeats, at the next node, until it has an answer, its patience is
// over or the context ends. Verdicts of a batch are repeated one by one in the
// same way. An error that a node answered is an *api.Error.
//
// # Goroutines
//
//	run, writer, reader  Submitter  Close
//	writer, calls        Work       Work returns
//	renewing             Action     Action returns
//
// The others are net/http's, which end with their idle connections or Close.
package client
