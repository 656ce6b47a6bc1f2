"""Fixtures of the capture tests: a private network, and a capture of its client."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma.capture.plans import WAYS, Way, open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture
from tests.dma.capture.lab import IPV6, Cable, Caller, cable


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Some tests have nothing to look at on a kernel without IPv6. Where CI is told of a skip, it fails."""
    if item.get_closest_marker("ipv6") and not IPV6:
        pytest.skip("this kernel runs without IPv6")


@pytest.fixture
def network() -> Iterator[Cable]:
    """A client's and a server's namespace of this test alone."""
    with cable(f"dma{os.getpid()}") as made:
        yield made


@pytest.fixture
def caller(network: Cable) -> Iterator[Caller]:
    """A process in the client's namespace."""
    with Caller(network.client) as process:
        yield process


@pytest.fixture(params=os.environ.get("STACKMEND_WAYS", "cgroup/core").split())
def way(request: pytest.FixtureRequest) -> Way:
    """A plan and its loader."""
    plan, loader = request.param.split("/")
    return next(way for way in WAYS if (way.plan, way.loader) == (plan, loader))


@pytest.fixture
def capture(network: Cable, way: Way, request: pytest.FixtureRequest) -> Iterator[Capture]:
    """The plan on the client's namespace."""
    if way.loader == "bcc":
        yield request.getfixturevalue("compiled")
    else:
        with way.open(Target(netns=network.client_netns), Settings()) as opened:
            yield opened


@pytest.fixture(scope="session")
def compiled_once() -> Iterator[Capture]:
    """What takes a compiler's time is opened once, and watches all of the machine."""
    with open_capture(Target(), loader="bcc") as opened:
        yield opened


@pytest.fixture
def compiled(compiled_once: Capture) -> Capture:
    """As if it had just been opened."""
    compiled_once.clear()
    compiled_once.drain()
    return compiled_once


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of this test alone."""
    from dma.capture.target import cgroup2_root

    root = cgroup2_root()
    assert root, "no cgroup2 file system is mounted"
    made = root / f"dma{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()
