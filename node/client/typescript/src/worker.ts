// An agent of a Quorate cluster over the stream quorate.v1.Work: tasks are
// pushed to it, its node renews their leases, and when that node goes it goes on
// at another with what it holds.
//
//   const worker = new Worker({
//     urls: ["http://127.0.0.1:7700"], agentId: "js-1", capabilities: ["double:number"],
//     handler: (task) => ({ n: 2 * task.input.n }),
//   });
//   process.once("SIGTERM", () => worker.stop());
//   await worker.run();

import { create } from "@bufbuild/protobuf";
import { createClient, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  Claim, ClaimSchema, ProblemSchema, SessionRequest, SessionRequestSchema, SessionResponse,
  Settlement, SettlementSchema, Task as WireTask, Work,
} from "./work_pb.js";

/** A task to perform. `epoch` is its fencing token: what it changes should be told it. */
export interface Task {
  readonly id: string;
  readonly epoch: bigint;
  readonly action: string;
  readonly target: string;
  readonly attempt: number;
  readonly guarantee: string;
  readonly idempotencyKey: string;
  readonly input: any; // eslint-disable-line @typescript-eslint/no-explicit-any -- whatever JSON was submitted
  /** What the holder before saved: go on from there. Undefined when nothing was saved. */
  readonly checkpoint?: { readonly version: bigint; readonly state: any }; // eslint-disable-line @typescript-eslint/no-explicit-any -- whatever JSON was saved
  /** Aborted when the task is over or somebody else's: what the handler returns then is dropped. */
  readonly signal: AbortSignal;
  /** Reports progress: any JSON up to 4 KiB, a larger report is dropped and logged; the newest counts. */
  progress(value: unknown): void;
}

/** Thrown by a handler when another attempt would not help. */
export class PermanentError extends Error {}

/** Thrown by a handler that can't tell whether the effect happened. */
export class InDoubtError extends Error {}

/** Why a node refused the agent for good. */
export class QuorateError extends Error {
  constructor(readonly layer: number, readonly code: string, readonly retry: string, detail: string, readonly hint: string) {
    super(`L${layer} ${code}: ${detail}` + (hint ? ` (${hint})` : ""));
  }
}

export interface Options {
  urls: string[]; // of nodes; others are learnt from them, and spoken to by the same scheme. A CA of your own: NODE_EXTRA_CA_CERTS
  agentId: string;
  capabilities: string[]; // "action:target", either may be a star
  handler: (task: Task) => unknown; // its result, or its promise's, becomes JSON
  concurrency?: number; // calls at a time; default 1
  credit?: number; // tasks held at a time, those that wait for a call included; default concurrency
  drainMs?: number; // how long calls may go on after stop(); default a minute. run() returns at most 10 s later, whatever nodes and calls do
  token?: string;
  log?: (text: string) => void;
}

interface Holding { claim: Claim; wire: WireTask; abort: AbortController; begun: boolean; ended: boolean; pause: number }
type Refusal = { retry: string; code: string; status: number; detail: string; retryAfterMs: bigint };

const json = (v: unknown) => new TextEncoder().encode(JSON.stringify(v ?? null));
const parse = (b: Uint8Array) => (b.length ? JSON.parse(new TextDecoder().decode(b)) : null);
const pauses = { first: 20, last: 1000, asked: 10_000 }; // milliseconds between attempts, doubling; at most, of what a node asks for
const lastAnswersMs = 10_000; // after the drain, for what is settled then
const welcomeMs = 15_000; // a node that says nothing for so long is not there
const limits = {
  batch: 1024, // settlements in a message, and claims
  inFlight: 8, // batches of settlements without an answer
  settleBytes: 1 << 20, // of results and errors in a message, beyond the first
  resultBytes: 8 << 20, // of one result: no node takes as much
  errorBytes: 8 << 10, // of an error's text: its end is kept
  progressBytes: 4 << 10,
  nodes: 64, // addresses
};
// Results of effects that happened and whose own one no node takes.
const tooLarge = json({ result_too_large: true }), refused = json({ result_refused: true }), notEncodable = json({ result_not_encodable: true });
const same = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((x, i) => x === b[i]);
const once = (level: string | undefined) => level === "exactly_once" || level === "atp-3";
const size = (s: Settlement) => s.result.length + 3 * s.error.length;

/** The end of an error's text, in whole characters. */
function tail(text: string): string {
  let b = new TextEncoder().encode(text);
  if (b.length > limits.errorBytes) b = b.subarray(b.length - limits.errorBytes);
  while ((b[0] & 0xc0) === 0x80) b = b.subarray(1);
  return new TextDecoder().decode(b);
}

/** Says that an address means the same node here as where it was told: not so one to listen on everywhere, nor another host's loopback. */
function meant(from: string, address: string): boolean {
  const local = (host: string) => /^(localhost|127\..*|\[::1\])$/.test(host);
  const host = address.slice(0, address.lastIndexOf(":"));
  return !["", "0.0.0.0", "[::]"].includes(host) && (!local(host) || local(new URL(from).hostname));
}

/** Takes a result away that no node takes. What was to happen exactly once, and
 * is said to have, has happened whatever its result; a task of another level
 * fails. False: the result is not what is wrong. */
function cutResult(s: Settlement, guarantee: string | undefined, status: number, detail: string): boolean {
  if (s.result.length === 0 || same(s.result, tooLarge) || same(s.result, refused)) return false;
  if (s.failed) {
    s.result = new Uint8Array();
  } else if (once(guarantee)) {
    s.result = status === 413 ? tooLarge : refused;
  } else {
    [s.failed, s.noRetry, s.error, s.result] = [true, true, tail(`the result was refused: ${detail}`), new Uint8Array()];
  }
  return true;
}

export class Worker {
  private readonly o: Required<Omit<Options, "token">> & { token?: string };
  private readonly held = new Map<string, Holding>();
  private queue: Holding[] = [];
  private busy = 0;
  private next: SessionRequest = create(SessionRequestSchema); // what is to be said
  private settle: Settlement[] = [];
  private postponed = new Map<Settlement, NodeJS.Timeout>(); // answered "later"
  private flight = new Map<bigint, Settlement[]>();
  private seq = 0n;
  private owed = 0n; // credit
  private stopping = false;
  private told = false; // the drain, in this session
  private readonly end = new AbortController(); // aborted: run returns, whatever is held
  private wake: () => void = () => {};
  private wakeRun: () => void = () => {};

  constructor(options: Options) {
    const concurrency = options.concurrency ?? 1;
    this.o = { concurrency, credit: concurrency, drainMs: 60_000, log: () => {}, ...options };
  }

  /** Takes no more, lets calls under way finish, and has run() return. */
  stop(): void {
    if (this.stopping) return;
    this.stopping = true;
    this.queue.splice(0).forEach((h) => this.giveBack(h));
    setTimeout(() => {
      this.held.forEach((h) => h.abort.abort(new Error("the agent was stopped")));
      setTimeout(() => this.end.abort(), lastAnswersMs).unref();
    }, this.o.drainMs).unref();
    this.end.signal.addEventListener("abort", () => this.wakeRun());
    this.wake();
    this.wakeRun();
  }

  /** Works until stop(); throws a QuorateError when the agent is refused or fenced. */
  async run(): Promise<void> {
    const given = this.o.urls;
    let urls = [...given]; // and what the last welcome told: nodes come and go
    let url = urls[0], token = "", pause = 0;
    for (let tried = 1; !this.over(); tried++) {
      const began = Date.now();
      try {
        await this.session(url, token, (nodes, t) => {
          token = t;
          if (nodes.length === 0) return;
          const others = nodes.filter((a) => meant(url, a)).map((a) => `${url.split("://")[0]}://${a}`); // by TLS if this one is
          urls = [...new Set([...given, ...others])].slice(0, Math.max(limits.nodes, given.length));
        });
        if (this.over()) return;
        this.o.log("session ended, opening another");
      } catch (e) {
        if (this.over()) return;
        const problem = e instanceof ConnectError ? e.findDetails(ProblemSchema)[0] : undefined;
        if (problem?.code === "message_too_large" && this.shrink(problem.detail)) this.o.log(`a result was cut: ${problem.detail}`);
        else if (problem?.retry === "no") throw new QuorateError(problem.layer, problem.code, problem.retry, problem.detail, problem.hint);
        this.o.log(`session lost, opening another: ${e}`);
      }
      pause = Date.now() - began > 5000 ? 0 : Math.min(Math.max(2 * pause, pauses.first), pauses.last);
      if (tried % urls.length === 0) {
        await new Promise<void>((done) => { this.wakeRun = done; setTimeout(done, pause * (0.5 + Math.random() / 2)); });
      }
      url = urls[(urls.indexOf(url) + 1) % urls.length]; // the first when this one is in the list no more
    }
  }

  private over(): boolean {
    return this.end.signal.aborted || (this.stopping && this.held.size === 0 && this.next.returned.length === 0);
  }

  private async session(url: string, token: string, welcome: (nodes: string[], token: string) => void): Promise<void> {
    const over = new AbortController();
    const stop = () => over.abort();
    this.end.signal.addEventListener("abort", stop);
    const late = setTimeout(stop, welcomeMs);
    const connection = new Http2SessionManager(url, { pingIntervalMs: 5000, pingTimeoutMs: 5000 });
    const transport = createGrpcTransport({ baseUrl: url, readMaxBytes: 16 << 20, sessionManager: connection });
    const headers: Record<string, string> = this.o.token ? { Authorization: `Bearer ${this.o.token}` } : {};
    try {
      for await (const m of createClient(Work, transport).session(this.say(token, over.signal), { headers, signal: over.signal })) {
        if (m.welcome) {
          clearTimeout(late);
          welcome(m.welcome.nodes, m.welcome.resumeToken);
        }
        this.hear(m);
        if (m.drain) return; // the node goes: open a session at another
      }
    } finally {
      clearTimeout(late);
      this.end.signal.removeEventListener("abort", stop);
      over.abort();
      connection.abort(); // an open one would keep the process
      this.wake();
    }
  }

  /** What this session says: hello with what is held, then whatever there is. */
  private async *say(token: string, over: AbortSignal): AsyncGenerator<SessionRequest> {
    for (const list of this.flight.values()) this.settle.push(...list); // they had no answer
    this.flight.clear();
    this.postponed.forEach((timer, s) => { clearTimeout(timer); this.settle.push(s); }); // the node here may take them
    this.postponed.clear();
    this.told = false;
    this.owed = 0n;
    const waiting = [...this.held.values()].filter((h) => !h.ended).length;
    this.next = create(SessionRequestSchema, {
      hello: {
        agentId: this.o.agentId, resumeToken: token, held: [...this.held.values()].map((h) => h.claim),
        manifest: json({ agent_id: this.o.agentId, capabilities: this.o.capabilities, max_concurrent_tasks: this.o.credit }),
      },
      credit: this.stopping ? 0n : BigInt(Math.max(this.o.credit - waiting, 0)),
    });
    while (!over.aborted) {
      const m = this.message();
      if (m) {
        yield m;
      } else if (this.stopping && this.told && this.held.size === 0) {
        return; // everything is settled
      } else {
        await new Promise<void>((done) => (this.wake = done));
      }
    }
  }

  private message(): SessionRequest | undefined {
    const m = this.next;
    this.next = create(SessionRequestSchema);
    this.next.started = m.started.splice(limits.batch);
    this.next.progress = m.progress.splice(limits.batch - m.started.length);
    if (this.settle.length > 0 && this.flight.size < limits.inFlight) {
      let n = 0;
      for (let bytes = 0; n < this.settle.length && n < limits.batch && (n === 0 || bytes + size(this.settle[n]) <= limits.settleBytes); n++) bytes += size(this.settle[n]);
      m.settle = this.settle.splice(0, n);
      m.settleSeq = ++this.seq;
      this.flight.set(m.settleSeq, m.settle);
    }
    if (this.stopping) {
      m.credit = 0n;
      m.drain = !this.told;
      this.told = true;
    }
    return m.hello || m.credit || m.drain || m.settle.length + m.started.length + m.progress.length + m.returned.length ? m : undefined;
  }

  private hear(m: SessionResponse): void {
    for (const r of m.revoked) {
      const h = this.find(r.taskId, r.epoch);
      if (!h || h.ended) continue;
      h.abort.abort(new Error(`revoked: ${r.reason}`));
      this.drop(h);
    }
    if (m.settled) this.answered(m.settled.seq, new Map(m.settled.verdicts.map((v) => [v.index, v.problem])));
    for (const t of m.tasks) {
      const old = this.held.get(t.taskId);
      if (old && old.claim.epoch >= t.epoch) {
        this.next.credit += 1n; // the node counted it
        continue;
      }
      if (old && !old.ended) { // given again before its revocation came
        old.abort.abort(new Error("given again: the earlier epoch is over"));
        this.drop(old);
      }
      const claim = create(ClaimSchema, { taskId: t.taskId, epoch: t.epoch });
      const h = { claim, wire: t, abort: new AbortController(), begun: false, ended: false, pause: 0 };
      this.held.set(t.taskId, h);
      if (this.stopping) this.giveBack(h);
      else this.queue.push(h);
    }
    for (const r of m.recall) { // not begun: back with it; begun: kept, and said so
      const h = this.find(r.taskId, r.epoch);
      if (!h || h.ended) continue;
      if (h.begun) {
        this.next.started.push(h.claim);
      } else { // its credit follows when a call ends: the node has somebody else in mind
        this.giveBack(h);
        this.next.credit -= 1n;
        this.owed += 1n;
      }
    }
    this.begin();
    this.wake();
  }

  private find(id: string, epoch: bigint): Holding | undefined {
    const h = this.held.get(id);
    return h && h.claim.epoch <= epoch ? h : undefined;
  }

  private runs(h: Holding): boolean {
    return this.held.get(h.claim.taskId) === h && !h.ended;
  }

  /** Forgets a task that has not ended here; its credit comes back. */
  private drop(h: Holding): void {
    this.held.delete(h.claim.taskId);
    this.queue = this.queue.filter((x) => x !== h);
    this.next.credit += 1n;
  }

  private giveBack(h: Holding): void {
    this.drop(h);
    this.next.returned.push(h.claim);
  }

  private begin(): void {
    while (this.busy < this.o.concurrency && this.queue.length > 0) {
      const h = this.queue.shift()!;
      h.begun = true;
      this.busy++;
      void this.perform(h).then((s) => {
        this.busy--;
        if (this.runs(h)) { // not revoked
          h.ended = true;
          if (s.result.length > limits.resultBytes) cutResult(s, h.wire.guarantee, 413, `it has ${s.result.length} bytes, no node takes more than ${limits.resultBytes}`);
          this.settle.push(s);
          this.next.credit += 1n + this.owed;
          this.owed = 0n;
        }
        this.begin();
        this.wake();
      });
    }
  }

  private async perform(h: Holding): Promise<Settlement> {
    const t = h.wire;
    const s = create(SettlementSchema, { taskId: t.taskId, epoch: t.epoch });
    const started = setTimeout(() => { if (this.runs(h)) { this.next.started.push(h.claim); this.wake(); } }, 50); // a short one need not be said to be begun
    try {
      const value = await this.o.handler({
        id: t.taskId, epoch: t.epoch, action: t.action, target: t.target, attempt: t.attempt, guarantee: t.guarantee,
        idempotencyKey: t.idempotencyKey, input: parse(t.input),
        checkpoint: t.checkpoint && { version: t.checkpoint.version, state: parse(t.checkpoint.state) }, signal: h.abort.signal,
        progress: (v) => {
          if (!this.runs(h)) return;
          const progress = json(v);
          if (progress.length > limits.progressBytes) return this.o.log(`progress of ${t.taskId} dropped: ${progress.length} bytes, at most ${limits.progressBytes}`);
          this.next.progress = this.next.progress.filter((p) => p.taskId !== t.taskId);
          this.next.progress.push(create(ClaimSchema, { taskId: t.taskId, epoch: t.epoch, progress }));
          this.wake();
        },
      });
      try {
        s.result = json(value);
      } catch (e) {
        if (!once(t.guarantee)) throw new PermanentError(`the result is not JSON: ${e}`);
        s.result = notEncodable; // it has happened
      }
    } catch (e) {
      s.failed = true;
      s.error = tail(e instanceof Error ? `${e.name}: ${e.message}` : String(e));
      s.noRetry = e instanceof PermanentError;
      s.inDoubt = e instanceof InDoubtError;
    } finally {
      clearTimeout(started);
    }
    return s;
  }

  /** Takes the verdicts of a batch: what may be repeated is, when the node asked for it. */
  private answered(seq: bigint, problems: Map<number, Refusal | undefined>): void {
    const list = this.flight.get(seq) ?? [];
    this.flight.delete(seq);
    list.forEach((s, i) => {
      const p = problems.get(i);
      const holding = this.held.get(s.taskId);
      const h = holding?.claim.epoch === s.epoch ? holding : undefined;
      if (p && p.retry !== "no") {
        this.postpone(s, h, p);
      } else if (p && h && [400, 413, 422].includes(p.status) && cutResult(s, h.wire.guarantee, p.status, p.detail)) { // the result is what is wrong
        this.settle.push(s);
      } else {
        if (p) this.o.log(`verdict on ${s.taskId} refused: ${p.code}`);
        if (h) this.held.delete(s.taskId);
      }
    });
  }

  /** Sends a settlement again when the node wants to be asked again. */
  private postpone(s: Settlement, h: Holding | undefined, p: Refusal): void {
    const pause = Math.min(Math.max(2 * (h?.pause ?? pauses.last), pauses.first), pauses.last);
    if (h) h.pause = pause;
    const again = () => {
      this.postponed.delete(s);
      this.settle.push(s);
      this.wake();
    };
    this.postponed.set(s, setTimeout(again, Math.max(pause * (0.5 + Math.random() / 2), Math.min(Number(p.retryAfterMs), pauses.asked))).unref());
  }

  /** Cuts the largest result without an answer, after a node refused a whole message as too large. False: there is none. */
  private shrink(detail: string): boolean {
    const all = [...this.settle, ...this.postponed.keys(), ...[...this.flight.values()].flat()];
    const largest = all.reduce<Settlement | undefined>((a, s) => (a && a.result.length >= s.result.length ? a : s), undefined);
    return largest !== undefined && largest.result.length > tooLarge.length && cutResult(largest, this.held.get(largest.taskId)?.wire.guarantee, 413, detail);
  }
}
