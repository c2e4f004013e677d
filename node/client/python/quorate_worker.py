"""A Quorate worker over HTTP/JSON, with the standard library alone.

    from quorate_worker import Worker

    def vet(task):                      # task: a dict with input, epoch, attempt, ...
        return {"findings": []}         # becomes the result; an exception fails the attempt

    Worker("http://127.0.0.1:7700", "py-1", ["vet:go"], vet).run()

The lease of a task is renewed while its handler runs. A handler that changes
something outside should pass task["epoch"] along as a fencing token.
"""
import json
import threading
import time
import urllib.error
import urllib.request


class Refused(Exception):
    """The node refused a request; .problem says where, why and what to do."""

    def __init__(self, problem):
        super().__init__("L%s %s: %s" % (problem.get("layer"), problem.get("code"), problem.get("detail")))
        self.problem = problem


class Worker:
    def __init__(self, url, agent_id, capabilities, handler, token=None):
        self.url, self.agent_id, self.capabilities, self.handler = url.rstrip("/"), agent_id, capabilities, handler
        self.token, self.stopped = token, threading.Event()

    def call(self, path, body, timeout=60):
        """One request, repeated until it is decided: each carries an epoch, so it is never done twice."""
        pause = 0.05
        while True:
            headers = {"Content-Type": "application/json"}
            if self.token:
                headers["Authorization"] = "Bearer " + self.token
            request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = json.load(error)
                if problem.get("retry", "no") == "no":
                    raise Refused(problem) from None
            except (OSError, ValueError):
                pass  # no answer: it may have happened, ask again
            time.sleep(pause)
            pause = min(2 * pause, 2)

    def stop(self):
        """Take no more work; run returns when the task under way has ended."""
        self.stopped.set()

    def run(self):
        """Register, then take and perform tasks, one at a time, until stop."""
        manifest = {"agent_id": self.agent_id, "capabilities": self.capabilities}
        self.call("/v1/agents/register", manifest)
        while not self.stopped.is_set():
            lease = {"agent_id": self.agent_id, "max": 1, "wait_seconds": 10}
            for task in self.call("/v1/leases", lease)["tasks"]:
                self.perform(task)

    def perform(self, task):
        path, claim = "/v1/tasks/" + task["task_id"] + "/", {"agent_id": self.agent_id, "epoch": task["epoch"]}
        ended = threading.Event()

        def renew():
            while not ended.wait(task["lease_seconds"] / 3):
                try:
                    self.call(path + "renew", claim)
                except Refused:
                    return  # over: complete will be told the same

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
