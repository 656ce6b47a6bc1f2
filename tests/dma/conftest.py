"""Fixtures shared with the capture tests: a private network, and a process that calls through it."""

from tests.dma.capture.conftest import caller, cgroup, network

__all__ = ["caller", "cgroup", "network"]
