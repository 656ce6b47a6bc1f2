"""The smoke workload: uses everything that the shop depends on, through web, and compares the answers.

A check that fails is repeated until it is right or the time is over. Prints one line of JSON; exits 0 when all
are right.
"""

import argparse
import json
import sys
import time
import uuid
from collections.abc import Callable

from services.clients import http_call
from services.links import settings

PAUSE_S = 0.2
JOB_S = 3.0


class WrongError(Exception):
    """The shop answered, but not as it should."""


class Smoke:
    """The checks, and the time there is for them."""

    def __init__(self, seconds: float) -> None:
        self.web = settings("client")["web"]
        self.deadline = time.monotonic() + seconds

    def expect(self, method: str, path: str, body: str = "") -> str:
        """The body of an answer that must be a good one."""
        answer = http_call(self.web, method, path, body)
        if answer.status != 200:
            raise WrongError(f"{method} {path}: {answer.status} {answer.body[:80]}")
        return answer.body

    def kept(self, kind: str) -> None:
        """What is stored comes back."""
        path, text = f"/{kind}/smoke", uuid.uuid4().hex
        self.expect("PUT", path, text)
        if (found := self.expect("GET", path)) != text:
            raise WrongError(f"GET {path}: {found[:80]} instead of {text}")

    def cache(self) -> None:
        """A cart is kept."""
        self.kept("carts")

    def db(self) -> None:
        """An order is kept."""
        self.kept("orders")

    def queue(self) -> None:
        """A job is done by the worker, and paid."""
        job = f"smoke-{uuid.uuid4().hex[:8]}"
        self.expect("PUT", f"/jobs/{job}")
        until = min(self.deadline, time.monotonic() + JOB_S)
        while (
            answer := http_call(self.web, "GET", f"/jobs/{job}")
        ).status == 404 and time.monotonic() < until:
            time.sleep(PAUSE_S)
        if answer.status != 200 or not answer.body.startswith(f"receipt for {job} "):
            raise WrongError(f"job {job}: {answer.status} {answer.body[:80]}")

    def metrics(self) -> None:
        """Requests are counted."""
        before = int(self.expect("GET", "/counters/api.requests"))
        after = int(self.expect("GET", "/counters/api.requests"))
        jobs = int(self.expect("GET", "/counters/worker.jobs"))
        if not before < after or not jobs:
            raise WrongError(f"counters: {before}, then {after} requests; {jobs} jobs")

    def repeat(self, check: Callable[[], None]) -> str:
        """Repeat one check until it is right; why it never was, or nothing."""
        while True:
            try:
                check()
            except (WrongError, OSError, ValueError) as error:
                reason = str(error) or repr(error)
            else:
                return ""
            if time.monotonic() > self.deadline:
                return reason
            time.sleep(PAUSE_S)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often to do all checks")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long to try, in all")
    options = parser.parse_args()
    started = time.monotonic()
    smoke = Smoke(options.seconds)
    checks = (smoke.cache, smoke.db, smoke.queue, smoke.metrics)
    failures: dict[str, str] = {}
    for _ in range(options.rounds):
        failures = {check.__name__: reason for check in checks if (reason := smoke.repeat(check))}
        if failures:
            break
    seconds = round(time.monotonic() - started, 2)
    sys.stdout.write(json.dumps({"ok": not failures, "seconds": seconds, "failures": failures}) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
