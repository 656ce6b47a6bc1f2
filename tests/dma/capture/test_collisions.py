"""What the programs tell apart by few bits, when the bits are alike."""

import socket
from pathlib import Path

import pytest

from dma.capture.plans import open_capture
from dma.capture.target import Target
from dma.flow import Failure, Loss
from tests.dma.capture.lab import NO_ROUTE, SERVER_V4, SERVER_V6, Cable, Caller, compiled_with, flow, settled

pytestmark = pytest.mark.kernel


def test_sockets_of_one_place(
    network: Cable, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all sockets have the same place, each is counted as where they have not."""
    monkeypatch.setattr(
        "dma.capture.core.OBJECT", compiled_with(tmp_path, {"#define PLACE_BITS 15": "#define PLACE_BITS 0"})
    )
    with (
        open_capture(Target(netns=network.client_netns), plan="cgroup") as capture,
        network.server_socket(socket.SOCK_STREAM, 7350),
    ):
        caller(f"start('lost', v4, '{NO_ROUTE}', 80)")
        caller(f"[start(n, v4, '{SERVER_V4}', 7350) for n in range(5)]")
        caller(f"x.update(a=new(v4, tcp)) or x['a'].sendto(b'x', socket.MSG_FASTOPEN, ('{SERVER_V4}', 7350))")
        caller(f"[call(v4, '{SERVER_V4}', port) for port in (7350, 7351)]")
        held = settled(capture, SERVER_V4, 7350, lambda f: f.established == 7)
        caller("[end(n) for n in (0, 1, 2, 3, 4, 'a', 'lost')]")
        ended = settled(capture, SERVER_V4, 7350, lambda f: not f.open)
        refused, lost = flow(capture, SERVER_V4, 7351), flow(capture, NO_ROUTE, 80)
    assert (held.attempts, held.open, held.pending) == (7, 6, 0)
    assert (ended.attempts, ended.established, ended.pending, ended.failures) == (7, 7, 0, {})
    assert refused
    assert (refused.attempts, refused.failures) == (1, {Failure.REFUSED: 1})
    assert lost
    assert (lost.attempts, lost.pending, lost.failures) == (1, 0, {Failure.UNREACHABLE: 1})


def test_destinations_of_one_digest(
    network: Cable, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two destinations whose digests are alike one is counted, and of the other is told what was lost."""
    monkeypatch.setattr("dma.capture.core.OBJECT", compiled_with(tmp_path, {"0x9e3779b97f4a7c15": "0"}))
    with open_capture(Target(netns=network.client_netns), plan="cgroup") as capture:
        caller(f"[call(v4, '{SERVER_V4}', 7352) for _ in range(3)]")
        caller(f"[call(v6, '{SERVER_V6}', 7352) for _ in range(2)]")
        assert [(str(f.destination.address), f.attempts) for f in capture.flows()] == [(SERVER_V4, 3)]
        assert capture.losses() == {Loss.MAP_FULL: 2}
