"""Reverse DNS against the name server that podman brings."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from dma.naming import reverse
from dma.naming.reverse import QUEUE, ReverseDns
from tests.dma.capture.lab import CLIENT_V4, CLIENT_V6, SERVER_V4, Cable, within
from tests.dma.naming.places import calling

AARDVARK = Path("/usr/lib/podman/aardvark-dns")
DEADLINE_S = 5.0
DATABASE_V4, DATABASE_V6, NOBODY = (
    ip_address("198.18.5.9"),
    ip_address("fd00:5::9"),
    ip_address("198.18.5.77"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that asks the server's namespace."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "resolv.conf").write_text(f"search shop\nnameserver {SERVER_V4}\n")
    return tmp_path


@contextmanager
def name_server(network: Cable, directory: Path) -> Iterator[None]:
    """A name server that knows the client and a database; it answers only those whom it knows."""
    if not AARDVARK.exists():
        pytest.skip(f"{AARDVARK} is not installed: apt-get install aardvark-dns")
    entries = f"c1 {CLIENT_V4} {CLIENT_V6} web\nc2 {DATABASE_V4} {DATABASE_V6} db,db-alias\n"
    (directory / "lab").write_text(f"{SERVER_V4}\n{entries}")
    command = [str(AARDVARK), "--config", str(directory), "--port", "53", "run"]
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{network.server}", *command], stderr=subprocess.DEVNULL
    )
    pid_file = directory / "aardvark.pid"
    try:
        process.wait(DEADLINE_S)  # it goes into the background
        yield
    finally:
        with suppress(FileNotFoundError):
            subprocess.run(["kill", pid_file.read_text()], check=True)


def until(condition: Callable[[], object]) -> None:
    """Wait for what the threads do."""
    deadline_s, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s
        pause.wait(0.02)


def test_names_are_found_behind_the_back(
    network: Cable, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first look-up answers nothing and asks; later ones know the name, its source and how long it lasts."""
    with (
        name_server(network, tmp_path_factory.mktemp("dns")),
        closing(within(network.client, lambda: ReverseDns(root))) as resolver,
    ):
        begin_s = time.monotonic()
        assert resolver.lookup(calling(DATABASE_V4)) == resolver.lookup(calling(DATABASE_V6)) == ()
        assert time.monotonic() - begin_s < 0.05
        until(lambda: resolver.lookup(calling(DATABASE_V4)) and resolver.lookup(calling(DATABASE_V6)))
        assert {one.name for one in resolver.lookup(calling(DATABASE_V6))} == {"db", "db-alias"}
        assert all((one.expires_s or 0) > time.monotonic() for one in resolver.lookup(calling(DATABASE_V4)))
        assert resolver.changed() == {DATABASE_V4, DATABASE_V6}
        assert resolver.changed() == set()


def test_a_dead_server_costs_a_counter(root: Path, network: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, a failure is counted once and remembered, and a look-up still does not wait."""
    monkeypatch.setattr(reverse, "TIMEOUT_S", 0.1)
    with closing(within(network.client, lambda: ReverseDns(root))) as resolver:
        assert resolver.lookup(calling(NOBODY)) == ()
        until(lambda: resolver.counters.failures)
        assert resolver.lookup(calling(NOBODY)) == ()
        assert (resolver.counters.failures, resolver.changed()) == (1, set())


def test_the_queue_is_bounded(root: Path, network: Cable) -> None:
    """More look-ups than the queue holds are dropped and counted, and each address is asked for once."""
    with closing(within(network.client, lambda: ReverseDns(root))) as resolver:
        for _ in range(2):
            for number in range(QUEUE + 40):
                resolver.lookup(calling(ip_address("198.18.5.0") + number))
        assert 38 <= resolver.counters.dropped <= 80
