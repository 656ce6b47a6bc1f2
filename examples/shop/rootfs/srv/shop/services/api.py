"""The api: keeps carts in the cache and orders in the database, and hands jobs to the worker through the queue."""

import random
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from services.clients import Answer, Statsd, cache_link, db_link, query, queue_link
from services.links import UnavailableError, settings

NOT_FOUND = Answer(404, "not found")


class Shop:
    """What the api knows how to do, over the links that it keeps."""

    def __init__(self) -> None:
        to = settings("api")
        self.stats = Statsd(to["metrics"], "api")
        self.cache = cache_link(to["cache"])
        self.pool = [db_link(to["db"]) for _ in range(2)]
        self.queue = queue_link(to["queue"], lifetime_s=5.0)

    def _query(self, statement: str, *parameters: str) -> list[str]:
        return random.choice(self.pool).use(lambda db: query(db, statement, *parameters))

    def get(self, kind: str, name: str) -> Answer:
        """Look something up."""
        found: str | None = None
        match kind:
            case "health":
                found = "ok"
            case "carts":
                found = self.cache.use(lambda cache: cache.get(f"cart:{name}"))
            case "orders":
                found = next(iter(self._query("SELECT item FROM orders WHERE id = %s", name)), None)
            case "jobs":
                found = next(iter(self._query("SELECT receipt FROM jobs WHERE id = %s", name)), None)
            case "counters":
                found = self.stats.read(name)
        return NOT_FOUND if found is None else Answer(200, found)

    def put(self, kind: str, name: str, text: str) -> Answer:
        """Store something, or order a job."""
        match kind:
            case "carts":
                self.cache.use(lambda cache: cache.set(f"cart:{name}", text))
            case "orders":
                self._query(
                    "INSERT INTO orders VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET item = excluded.item",
                    name,
                    text,
                )
            case "jobs":
                if self.queue.use(lambda queue: queue.ask(f"PUSH {name}")) != "OK":
                    raise UnavailableError("queue is full")
            case _:
                return NOT_FOUND
        return Answer(200, "stored")


class Request(BaseHTTPRequestHandler):
    """One HTTP request: ``GET`` or ``PUT`` of ``/kind/name``."""

    shop: Shop

    def do_GET(self) -> None:
        """Look something up."""
        self._answer("")

    def do_PUT(self) -> None:
        """Store what the body says."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _answer(self, text: str) -> None:
        self.shop.stats.count("requests")
        kind, _, name = self.path.strip("/").partition("/")
        try:
            answer = self.shop.put(kind, name, text) if self.command == "PUT" else self.shop.get(kind, name)
        except (UnavailableError, OSError) as error:
            answer = Answer(503, str(error))
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Keep quiet about requests; errors are logged all the same."""


if __name__ == "__main__":
    Request.shop = Shop()
    ThreadingHTTPServer(("0.0.0.0", 8000), Request).serve_forever()
