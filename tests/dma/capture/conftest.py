"""Fixtures of the capture tests: a private network, and a capture of its client."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma.capture.plans import open_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture
from tests.dma.capture.lab import Cable, Caller, cable


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


@pytest.fixture
def capture(network: Cable) -> Iterator[Capture]:
    """The cgroup plan on the client's namespace."""
    with open_capture(Target(netns=network.client_netns), plan="cgroup", settings=Settings()) as opened:
        yield opened


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
