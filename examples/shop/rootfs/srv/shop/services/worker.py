"""The worker: takes jobs from the queue, charges them at the payments provider, and files the receipts."""

import logging
import threading
import time
from collections.abc import Callable

from services.clients import Answer, Statsd, cache_link, db_link, http_call, query, queue_link
from services.links import UnavailableError, jittered, settings

log = logging.getLogger(__name__)

POLL_S = 0.25
RATE_S = 3.0


class Worker:
    """The links that the worker keeps, and what it does with a job."""

    def __init__(self) -> None:
        to = settings("worker")
        self.payments = to["payments"]
        self.stats = Statsd(to["metrics"], "worker")
        self.cache = cache_link(to["cache"])
        self.db = db_link(to["db"])
        self.queue = queue_link(to["queue"])

    def pay(self, method: str, path: str) -> str:
        """Call the provider, which is outside the stack."""
        answer: Answer = http_call(self.payments, method, path)
        if answer.status != 200:
            raise UnavailableError(f"payments answered {answer.status}")
        return answer.body

    def refresh_rate(self) -> None:
        """Keep today's rate in the cache."""
        rate = self.pay("GET", "/rate")
        self.cache.use(lambda cache: cache.set("rate", rate))

    def work(self, job: str) -> None:
        """Do one job."""
        rate = self.cache.use(lambda cache: cache.get("rate"))
        if rate is None:
            raise UnavailableError("no rate yet")
        receipt = self.pay("PUT", f"/charges/{job}?rate={rate}")
        statement = (
            "INSERT INTO jobs VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET receipt = excluded.receipt"
        )
        self.db.use(lambda db: query(db, statement, job, receipt))
        self.stats.count("jobs")

    def take(self) -> None:
        """Do the next job, if there is one; one that fails goes back to the queue."""
        verb, _, job = self.queue.use(lambda queue: queue.ask("POP")).partition(" ")
        if verb == "JOB":
            try:
                self.work(job)
            except (UnavailableError, OSError):
                self.queue.use(lambda queue: queue.ask(f"PUSH {job}"))
                raise


def repeat(action: Callable[[], None], period_s: float) -> None:
    """Do it for ever, whether or not it works."""
    while True:
        try:
            action()
        except (UnavailableError, OSError) as error:
            log.warning("%s: %s", action.__name__, error)
        time.sleep(jittered(period_s))


if __name__ == "__main__":
    worker = Worker()
    threading.Thread(target=repeat, args=(worker.refresh_rate, RATE_S), daemon=True).start()
    repeat(worker.take, POLL_S)
