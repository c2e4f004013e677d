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
// Within a program that embeds a node, no client: the node's own methods, among
// them Work, which is the one here without a connection.
//
//	n, err := node.Open(cfg)
//	err = n.Work(ctx, manifest, handler)
//
// From TypeScript (typescript/, Node.js 20: npm ci && npm run build), over the
// same stream:
//
//	const worker = new Worker({ urls: ["http://127.0.0.1:7700"], agentId: "js-1",
//	  capabilities: ["double:number"], handler: (task) => ({ n: 2 * task.input.n }) });
//	process.once("SIGTERM", () => worker.stop());
//	await worker.run();
//
// From Python (python/quorate_worker.py, the standard library alone), over HTTP:
//
//	Worker(["http://127.0.0.1:7700"], "py-1", ["double:number"],
//	       lambda task: {"n": 2 * task["input"]["n"]}).run()
//
// From anything that runs: quorate agent run --id sh-1 --can double:number -- ./double
//
// # Outcomes
//
// There are three: done, refused, and unknown (the connection broke half-way).
// Every operation may be repeated after an unknown: reads, and changes that
// carry a key or an epoch, so a submit without an idempotency key gets one. The
// client repeats, at the next node it was given or told of, until it has an
// answer, its patience is over or the context ends. Verdicts of a batch are
// repeated one by one. An error that a node answered is an *api.Error.
//
// A recalled task goes back if no call has begun with it, and is said to be
// started otherwise. An agent ID has one session: an older one ends with
// session_fenced, and its calls with it.
//
// # What it costs
//
// One submit at a time, acknowledged by a quorum of three nodes (in one process
// on two cores, go test ./node -bench OneCaller), p50: Submit 0.60 to 0.63 ms, a
// Submitter 0.55 to 0.67 ms, the node's own Submit 0.49 to 0.52 ms.
//
// # Goroutines
//
//	run, writer, reader  Submitter  Close
//	writer, calls        Work       Work returns
//	renewing             Action     Action returns
//
// The others are net/http's, which end with their idle connections or Close.
package client
