"""A Quorate worker over HTTP/JSON, with the standard library alone.

    from quorate_worker import Worker

    def vet(task):                      # task: a dict with input, epoch, attempt, ...
        return {"findings": []}         # becomes the result; an exception fails the attempt

    Worker(["http://127.0.0.1:7700"], "py-1", ["vet:go"], vet).run()

It is given one node's URL or several and learns the others from them; when one
does not answer it goes on at the next with the task that it holds. The lease of
a task is renewed while its handler runs, through another node each time: when
one dies, there is one that knows who holds the task. A handler that changes
something outside should pass task["epoch"] along as a fencing token.
"""
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ANSWER_SECONDS = 10  # how long a node may take to answer; a third of the lease if that is less
LAST_SECONDS = 10  # after stop, for what no node has answered yet
MAX_NODES = 64
NODES_HEADER = "X-Quorate-Nodes"


class Refused(Exception):
    """The node refused a request; .problem says where, why and what to do."""

    def __init__(self, problem):
        super().__init__("L%s %s: %s" % (problem.get("layer"), problem.get("code"), problem.get("detail")))
        self.problem = problem


class Worker:
    def __init__(self, urls, agent_id, capabilities, handler, token=None):
        """urls: of nodes, a list or one string with commas; capabilities: "action:target"."""
        if isinstance(urls, str):
            urls = urls.split(",")
        self.given = [url.strip().rstrip("/") for url in urls]
        self.urls, self.url = list(self.given), self.given[0]  # those there are, and who answered last
        self.agent_id, self.capabilities, self.handler = agent_id, capabilities, handler
        self.token, self.stopped = token, threading.Event()

    def call(self, path, body, timeout=ANSWER_SECONDS, url=None):
        """One request, repeated until it is decided: each carries an epoch, so it is never done twice.

        Each time at the next node, beginning with url, or who answered last."""
        pause, tried, last = 0.05, 0, None
        while True:
            at = url or self.url
            try:
                return self.ask(at, path, body, timeout)
            except Refused as error:
                if error.problem.get("retry", "no") == "no":
                    raise
                failure = error
            except (OSError, ValueError, http.client.HTTPException) as error:
                failure = error  # no answer: it may have happened, ask again
            if url:
                url = self.after(url)
            elif at == self.url:
                self.url = self.after(at)
            if self.stopped.is_set():
                last = last or time.monotonic() + LAST_SECONDS
                if time.monotonic() > last:
                    raise failure
            tried += 1
            if tried % len(self.urls) == 0:
                time.sleep(pause)
                pause = min(2 * pause, 2)

    def ask(self, url, path, body, timeout):
        headers = {"Content-Type": "application/json", NODES_HEADER: "?"}
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                self.learn(url, answer.headers.get(NODES_HEADER))
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                self.learn(url, error.headers.get(NODES_HEADER))
                raise Refused(json.load(error)) from None  # or a ValueError: not a node's

    def learn(self, url, addresses):
        """Go to the nodes that were given, and to those that a node tells of."""
        if not addresses:
            return
        scheme = url.split("://")[0]
        told = [scheme + "://" + a for a in addresses.split(",") if meant(url, a)]
        self.urls = list(dict.fromkeys(self.given + told))[: max(MAX_NODES, len(self.given))]

    def after(self, url):
        urls = self.urls
        return urls[(urls.index(url) + 1) % len(urls)] if url in urls else urls[0]

    def stop(self):
        """Take no more work; run returns when the task under way has ended."""
        self.stopped.set()

    def run(self):
        """Register, then take and perform tasks, one at a time, until stop."""
        manifest = {"agent_id": self.agent_id, "capabilities": self.capabilities}
        self.call("/v1/agents/register", manifest)
        while not self.stopped.is_set():
            lease = {"agent_id": self.agent_id, "max": 1, "wait_seconds": 10}
            for task in self.call("/v1/leases", lease, timeout=10 + ANSWER_SECONDS)["tasks"]:
                self.perform(task)

    def perform(self, task):
        path, claim = "/v1/tasks/" + task["task_id"] + "/", {"agent_id": self.agent_id, "epoch": task["epoch"]}
        ended, third = threading.Event(), task["lease_seconds"] / 3

        def renew():
            verb, pause, url = "start", min(0.2, third), self.after(self.url)
            while not ended.wait(pause):
                try:
                    self.call(path + verb, claim, min(ANSWER_SECONDS, third), url)
                except (Refused, OSError, ValueError, http.client.HTTPException):
                    return  # over: complete will be told the same
                verb, pause, url = "renew", third, self.after(url)

        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            verdict = "complete", dict(claim, result=self.handler(task))
        except Exception as error:  # whatever the handler raises fails the attempt
            verdict = "fail", dict(claim, error=repr(error))
        ended.set()
        try:
            self.call(path + verdict[0], verdict[1])
        except Refused as refused:
            if refused.problem.get("code") != "stale_lease":  # given to somebody else: drop it
                raise


def meant(url, address):
    """Whether an address means the same node here as at url: not so one to
    listen on everywhere, nor another host's loopback."""
    host, teller = (urllib.parse.urlsplit(u).hostname or "" for u in ("//" + address, url))
    local = [h == "localhost" or h == "::1" or h.startswith("127.") for h in (host, teller)]
    return host not in ("", "0.0.0.0", "::") and local[0] <= local[1]
