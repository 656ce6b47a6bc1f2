"""What one agent may cost its manager: a guest that is broken or hostile is to hurt nobody but itself."""

from dm.stack import Stack
from dm.v1 import agent_service_pb2
from dm.vcd import VcdState

EDGES = 20_000
"""Edges of one agent; its own table holds half of that."""
EDGES_PER_MESSAGE = 2_000
"""An edge costs 15 µs, and while one message is taken in nobody else is heard."""
ADDRESSES = 256
LISTENERS = 4096
PROBES = 64

GENERATIONS = 1 << 31

BURST = 80_000.0
PER_S = 20_000.0
"""An edge costs 1 of these: at most a third of a core for each agent that does its worst."""
HELLO_COST = 5_000
PRESENCE_COST = 1_000
MESSAGE_COST = 50
BYTES_COST = 1 / 1000


class LimitError(Exception):
    """An agent said more than it may; the message says what."""


class Allowance:
    """What one VCD's agents may still cost: full at first, and filled again as time goes on. Pure."""

    def __init__(self) -> None:
        self._left = BURST
        self._at_s: float | None = None

    def take(self, cost: float, *, now_s: float) -> bool:
        """Whether so much was left; then it is taken."""
        if self._at_s is not None:
            self._left = min(BURST, self._left + (now_s - self._at_s) * PER_S)
        self._at_s = now_s
        if cost > self._left:
            return False
        self._left -= cost
        return True


def admit(
    request: agent_service_pb2.ReportRequest,
    stack: Stack,
    vcd: VcdState,
    allowance: Allowance,
    *,
    now_s: float,
) -> None:
    """Raise :class:`LimitError` for a message that is too large, comes too soon or finds no room."""
    item, edges = request.WhichOneof("item"), len(request.edges.edges)
    cost = {"hello": HELLO_COST, "presence": PRESENCE_COST}.get(item or "", MESSAGE_COST)
    if not allowance.take(cost + edges + request.ByteSize() * BYTES_COST, now_s=now_s):
        raise LimitError(
            f"the agent of {vcd.name} reports or comes back too often: see its log for the reason"
        )
    if edges > EDGES_PER_MESSAGE:
        raise LimitError(f"{edges} edges in one message: {EDGES_PER_MESSAGE} are taken, send several")
    for presence in (request.presence, request.hello.presence):
        if len(presence.addresses) > ADDRESSES:
            raise LimitError(f"{len(presence.addresses)} addresses of one machine: {ADDRESSES} are taken")
        if len(presence.listeners) > LISTENERS:
            raise LimitError(f"{len(presence.listeners)} listening ports: {LISTENERS} are taken")
    if len(request.hello.probes) > PROBES:
        raise LimitError(f"{len(request.hello.probes)} probes: {PROBES} are taken")
    if request.hello.generation > GENERATIONS:
        raise LimitError(f"the generation {request.hello.generation} was never given: start the agent anew")
    if edges:
        _make_room(stack, vcd, edges, now_s=now_s)


def _make_room(stack: Stack, vcd: VcdState, coming: int, *, now_s: float) -> None:
    """What the agent no longer reports gives way first; so one that begins anew always finds room."""
    if stack.graph.size(vcd.name) + coming > EDGES:
        stack.forget(vcd, now_s=now_s)
    if max(stack.graph.size(vcd.name), len(vcd.pending_table or ())) + coming > EDGES:
        raise LimitError(
            f"{vcd.name} has called more than {EDGES} destinations: is something scanning there? (it begins anew)"
        )
