"""Names from a file, and from a document at a URL."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dma.naming.registry.settings import Access
from dma.naming.registry.static import FileFeed, WebFeed
from tests.dma.capture.lab import SERVER_V4, Cable, within
from tests.dma.naming.registry.conftest import following
from tests.dma.naming.registry.looking import called, until

WEB, DATABASE = "198.18.7.1", "198.18.7.2"
PORT = 8000
RECORDS: list[dict[str, object]] = [
    {"service": "web", "ip": WEB, "port": 8080},
    {"service": "db", "ip": DATABASE},
]


class Registry(ThreadingHTTPServer):
    """A document with an entity tag; ``answers`` are the states that were sent."""

    def __init__(self) -> None:
        self.document: object = RECORDS
        self.tag = '"1"'
        self.answers: list[int] = []
        super().__init__((SERVER_V4, PORT), _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        fresh = self.headers["If-None-Match"] == self.server.tag
        body = b"" if fresh else json.dumps(self.server.document).encode()
        status = 304 if fresh else 200
        self.server.answers.append(status)
        self.send_response(status)
        self.send_header("ETag", self.server.tag)
        if not fresh:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def registry(network: Cable) -> Iterator[Registry]:
    """Served in the server's namespace."""
    server = within(network.server, Registry)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["services.json", "services.toml"])
def test_a_file_is_read_when_it_changes(network: Cable, tmp_path: Path, name: str) -> None:
    """What it lists is known, with the port or for all of the address; when it is rewritten the new list is."""
    file = tmp_path / name
    file.write_text(document(name, RECORDS))
    with following(network, FileFeed(str(file), interval_s=0.2)) as names:
        until(lambda: called(names, WEB, 8080) == ("web",))
        assert called(names, WEB, 8081) == ()
        assert called(names, DATABASE, 1) == called(names, DATABASE, 2) == ("db",)
        (tmp_path / "new").write_text(document(name, [{"service": "api", "ip": WEB, "port": 8080}]))
        (tmp_path / "new").rename(file)
        assert until(lambda: called(names, WEB, 8080) == ("api",)) < 1
        assert called(names, DATABASE, 1) == ()


def test_a_broken_file_changes_nothing(network: Cable, tmp_path: Path) -> None:
    """A file that is half written, or not there, is a failure; the names stay until it is whole again."""
    file = tmp_path / "services.json"
    file.write_text(document(file.name, RECORDS))
    with following(network, FileFeed(str(file), interval_s=0.2)) as names:
        until(lambda: called(names, WEB, 8080))
        file.write_text('[{"service": "web", ')
        until(lambda: "no list of services" in names.counters.problem)
        file.unlink()
        until(lambda: "check the path" in names.counters.problem)
        assert called(names, WEB, 8080) == ("web",)
        file.write_text("[]")
        until(lambda: called(names, WEB, 8080) == ())


def test_a_document_is_sent_only_when_it_changed(network: Cable) -> None:
    """The registry is asked with the entity tag, and its new document is taken in."""
    with (
        registry(network) as server,
        following(network, WebFeed(f"http://{SERVER_V4}:{PORT}/", Access(), interval_s=0.2)) as names,
    ):
        until(lambda: called(names, WEB, 8080) == ("web",))
        until(lambda: server.answers.count(304) > 1)
        assert server.answers.count(200) == 1
        server.document, server.tag = [{"service": "api", "ip": WEB, "port": 8080}], '"2"'
        assert until(lambda: called(names, WEB, 8080) == ("api",)) < 1
        assert names.counters.failures == 0


def test_lies_are_failures(network: Cable) -> None:
    """A document of another form changes nothing; names that are no names are passed over."""
    with (
        registry(network) as server,
        following(network, WebFeed(f"http://{SERVER_V4}:{PORT}/", Access(), interval_s=0.2)) as names,
    ):
        until(lambda: called(names, WEB, 8080))
        server.document, server.tag = {"services": 7}, '"2"'
        until(lambda: names.counters.failures)
        assert called(names, WEB, 8080) == ("web",)
        bad = [{"service": f"\x1b[2J{'x' * size}", "ip": WEB, "port": 8080} for size in (1, 1000)]
        server.document, server.tag = [*bad, {"service": "web", "ip": "nowhere", "port": -1}], '"3"'
        until(lambda: called(names, WEB, 8080) == ())


def document(name: str, records: Sequence[Mapping[str, object]]) -> str:
    """The records in the form that the name stands for."""
    if name.endswith(".json"):
        return json.dumps(records)
    lines = ([f"{key} = {json.dumps(value)}" for key, value in record.items()] for record in records)
    return "\n".join("\n".join(["[[services]]", *of_one]) for of_one in lines)
