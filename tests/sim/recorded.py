"""What real agents and a real deployer said, as ``dm serve --record`` kept it, played to the core in virtual time."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from dm import wire
from dm.golden import GoldenImage
from dm.learning import merge
from dm.stack import Stack
from dm.v1 import agent_pb2, agent_service_pb2, golden_service_pb2, rollback_service_pb2, stack_service_pb2
from dm.vcd import VcdState
from dm.verdict import Judgement

KEPT = Path(__file__).resolve().parent.parent / "recordings"
"""Up to the end of the stack, and without what only operations are told."""
BEGIN_S = 1000.0
LOOK_S = 0.25


class Said(NamedTuple):
    """One line: who says what (its call's number and method), and when; ``request`` is None when the call ends."""

    at_s: float
    call: int
    method: str
    request: Mapping[str, Any] | None


def read(path: Path) -> Iterator[Said]:
    """The lines of a compressed recording."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            one = json.loads(line)
            yield Said(BEGIN_S + one["at_s"], one["call"], one["method"], one.get("request"))


class Player:
    """Hands each message to a stack as the manager does, and judges as often."""

    def __init__(self) -> None:
        self.history: list[Judgement] = []
        self._now_s = BEGIN_S
        self._stack: Stack | None = None
        self._image: GoldenImage | None = None
        self._speakers: dict[int, VcdState] = {}
        self._current: dict[str, int] = {}

    def play(self, path: Path) -> list[Judgement]:
        """A whole recording; returns every judgement on the way."""
        for said in read(path):
            while self._now_s + LOOK_S < said.at_s:
                self._look(self._now_s + LOOK_S)
            self._now_s = said.at_s
            self._take(said)
            self._look(said.at_s)
        return self.history

    def _look(self, now_s: float) -> None:
        self._now_s = now_s
        if self._stack is not None:
            self.history.append(self._stack.judge(now_s=now_s))

    def _take(self, said: Said) -> None:
        method, request = said.method.rpartition("/")[2], dict(said.request or {})
        if method == "ApplyStack":
            self._apply(ParseDict(request, stack_service_pb2.ApplyStackRequest()))
            return
        assert self._stack is not None, "a recording begins with the stack's declaration"
        match method:
            case "RemoveStack":
                self._stack = None
            case "CaptureGolden":
                self._learn(self._stack, ParseDict(request, golden_service_pb2.CaptureGoldenRequest()))
            case "Attend":
                self._attend(self._stack, ParseDict(request, rollback_service_pb2.AttendRequest()))
            case "Report" if said.request is None:
                self._end(self._stack, said.call)
            case "Report":
                report = ParseDict(request, agent_service_pb2.ReportRequest())
                self._report(self._stack, said.call, report)

    def _apply(self, request: stack_service_pb2.ApplyStackRequest) -> None:
        spec, _ = wire.spec(request.stack, now_s=self._now_s)
        if self._stack is None:
            self._stack = Stack(spec, generations={}, now_s=self._now_s)
        else:
            self._stack.apply(spec, generations={}, now_s=self._now_s)
        self._stack.use_image(self._image, now_s=self._now_s)

    def _learn(self, stack: Stack, request: golden_service_pb2.CaptureGoldenRequest) -> None:
        image = stack.learn(smoke=request.smoke)
        self._image = merge([self._image, image]) if request.merge and self._image else image
        stack.use_image(self._image, now_s=self._now_s)

    def _attend(self, stack: Stack, request: rollback_service_pb2.AttendRequest) -> None:
        if request.WhichOneof("item") == "instance":
            report = request.instance
            power = wire.power(report.power)
            vcd = stack.vcds[report.vcd]
            stack.instance(vcd, power, report.incarnation, expected=False, now_s=self._now_s)

    def _report(self, stack: Stack, call: int, report: agent_service_pb2.ReportRequest) -> None:
        item = report.WhichOneof("item")
        if item == "hello":
            self._hello(stack, call, report.hello)
            return
        vcd = self._speakers[call]
        if self._current.get(vcd.name) != call:
            return
        match item:
            case "edges" if vcd.speaks(report.edges.generation):
                flows = wire.flows(report.edges, source=vcd.name, now_s=self._now_s)
                stack.edges(vcd, flows, complete=report.edges.complete, now_s=self._now_s)
            case "coverage":
                stack.losses(vcd, wire.losses(report.coverage), now_s=self._now_s)
            case "presence":
                self._presence(stack, vcd, report.presence)
            case "heartbeat":
                stack.heard(vcd, now_s=self._now_s)

    def _hello(self, stack: Stack, call: int, hello: agent_pb2.Hello) -> None:
        vcd = self._speakers[call] = stack.vcds[hello.vcd]
        self._current[vcd.name] = call
        if hello.generation not in (0, vcd.generation):
            return
        missing = [probe.name for probe in hello.probes if probe.problem and not probe.detail]
        stack.hello(vcd, session=hello.session, probes=missing, now_s=self._now_s)
        self._presence(stack, vcd, hello.presence)

    def _presence(self, stack: Stack, vcd: VcdState, presence: agent_pb2.Presence) -> None:
        addresses = wire.addresses(presence.addresses)
        stack.presence(vcd, addresses, wire.listeners(presence), now_s=self._now_s)

    def _end(self, stack: Stack, call: int) -> None:
        vcd = self._speakers.get(call)
        if vcd is not None and self._current.get(vcd.name) == call:
            stack.lost(vcd, now_s=self._now_s)
