"""What a manager would have said of a recording: its messages played to the core again, in virtual time.

What a deployer did by the manager's command looks like something done by hand here, since nothing is decided again.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from google.protobuf.json_format import ParseDict, ParseError
from msgspec.structs import replace

from dm import wire
from dm.capture import capture
from dm.golden import GoldenError, GoldenImage, decode
from dm.golden_wire import rule_of
from dm.policy import LOOK_S, Policy
from dm.rules import changed, without
from dm.stack import Stack
from dm.v1 import agent_pb2, agent_service_pb2, golden_service_pb2, rollback_service_pb2, stack_service_pb2
from dm.vcd import VcdState
from dm.verdict import Judgement

BEGIN_S = 1000.0
_GZIP = b"\x1f\x8b"


class ReplayError(Exception):
    """The file is no recording; the message says where and what to try."""


class Said(NamedTuple):
    """One line: who says what (its call's number and method), and when; ``request`` is None when the call ends."""

    at_s: float
    call: int
    method: str
    request: Mapping[str, Any] | None


class Moment(NamedTuple):
    """A judgement on a stack, so many seconds after the recording began."""

    at_s: float
    stack: str
    judgement: Judgement


def read(path: Path) -> Iterator[Said]:
    """The lines of a recording, which may be compressed by gzip. Raises :class:`ReplayError`."""
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    one = json.loads(line)
                    yield Said(float(one["at_s"]), int(one["call"]), str(one["method"]), one.get("request"))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ReplayError(
                        f"{path}, line {number}: not a recording: name a file written by `dm serve --record`"
                    ) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReplayError(
            f"cannot read {path}: {error}; name a file written by `dm serve --record`"
        ) from error


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rt") if packed else path.open()


def unchanged(policy: Policy) -> Policy:
    """As it was declared."""
    return policy


class Player:
    """Hands each message to its stack as the manager does, and judges as often.

    ``image`` is in force for its stack from the beginning, as it may have been when the recording began; ``judge_by``
    says by which settings to judge.
    """

    def __init__(
        self, *, image: GoldenImage | None = None, judge_by: Callable[[Policy], Policy] = unchanged
    ) -> None:
        self._judge_by = judge_by
        self._images = {image.stack: image} if image else {}
        self._stacks: dict[str, Stack] = {}
        self._speakers: dict[int, tuple[Stack, VcdState]] = {}
        self._attended: dict[int, Stack] = {}
        self._current: dict[VcdState, int] = {}
        self._now_s = BEGIN_S

    def play(self, recording: Iterable[Said]) -> Iterator[Moment]:
        """Every judgement on the way. Raises :class:`ReplayError` when a message cannot be understood."""
        for said in recording:
            at_s = BEGIN_S + said.at_s
            while self._now_s + LOOK_S < at_s:
                yield from self._look(self._now_s + LOOK_S)
            self._now_s = at_s
            try:
                self._take(said)
            except (ParseError, wire.WireError) as error:
                problem = " ".join(str(error).split())
                raise ReplayError(
                    f"{said.method} at {said.at_s:.1f} s is not understood: {problem}: play it with the version that "
                    "recorded it"
                ) from error
            except KeyError as error:
                raise ReplayError(
                    f"{said.method} at {said.at_s:.1f} s is of {error}, not declared before: is its beginning "
                    "cut off?"
                ) from error
            yield from self._look(at_s)

    def _look(self, now_s: float) -> Iterator[Moment]:
        self._now_s = now_s
        for name, stack in self._stacks.items():
            yield Moment(now_s - BEGIN_S, name, stack.judge(now_s=now_s))

    def _take(self, said: Said) -> None:
        request = dict(said.request or {})
        match said.method.rpartition("/")[2]:
            case "ApplyStack":
                self._apply(ParseDict(request, stack_service_pb2.ApplyStackRequest()))
            case "RemoveStack":
                self._stacks.pop(ParseDict(request, stack_service_pb2.RemoveStackRequest()).stack, None)
            case "CaptureGolden":
                self._capture(ParseDict(request, golden_service_pb2.CaptureGoldenRequest()))
            case "ImportGolden":
                self._import(ParseDict(request, golden_service_pb2.ImportGoldenRequest()))
            case "SetGoldenRule":
                self._rule(ParseDict(request, golden_service_pb2.SetGoldenRuleRequest()))
            case "Attend":
                self._attend(said.call, ParseDict(request, rollback_service_pb2.AttendRequest()))
            case "Report" if said.request is None:
                self._end(said.call)
            case "Report":
                self._report(said.call, ParseDict(request, agent_service_pb2.ReportRequest()))

    def _apply(self, request: stack_service_pb2.ApplyStackRequest) -> None:
        spec, _ = wire.spec(request.stack, now_s=self._now_s)
        spec = spec._replace(policy=self._judge_by(spec.policy))
        if (stack := self._stacks.get(spec.name)) is None:
            stack = self._stacks[spec.name] = Stack(spec, generations={}, now_s=self._now_s)
        else:
            stack.apply(spec, generations={}, now_s=self._now_s)
        stack.use_image(self._images.get(spec.name), now_s=self._now_s)

    def _capture(self, request: golden_service_pb2.CaptureGoldenRequest) -> None:
        stack, current = self._stacks[request.stack], self._images.get(request.stack)
        # What was refused then is refused again.
        with suppress(GoldenError):
            self._use(capture(stack, current, join=request.merge, smoke=request.smoke, now_s=self._now_s))

    def _import(self, request: golden_service_pb2.ImportGoldenRequest) -> None:
        with suppress(GoldenError):
            self._use(decode(request.document))

    def _rule(self, request: golden_service_pb2.SetGoldenRuleRequest) -> None:
        found = (
            one for one in self._images.values() if request.id == one.stack or one.id.startswith(request.id)
        )
        if (image := next(found, None)) is not None:
            rule, action = rule_of(request)
            rules = without(image.rules, rule.pattern) if action is None else changed(image.rules, rule)
            self._use(replace(image, rules=rules))

    def _use(self, image: GoldenImage) -> None:
        self._images[image.stack] = image
        if stack := self._stacks.get(image.stack):
            stack.use_image(image, now_s=self._now_s)

    def _attend(self, call: int, request: rollback_service_pb2.AttendRequest) -> None:
        match request.WhichOneof("item"):
            case "attach":
                self._attended[call] = self._stacks[request.attach.stack]
            case "instance" if (stack := self._attended.get(call)) is not None:
                report = request.instance
                if (vcd := stack.vcds.get(report.vcd)) is not None:
                    stack.instance(
                        vcd,
                        wire.power(report.power),
                        report.incarnation,
                        expected=False,
                        now_s=self._now_s,
                        held=wire.text(report.held),
                        reverted=report.reverted,
                    )

    def _report(self, call: int, report: agent_service_pb2.ReportRequest) -> None:
        item = report.WhichOneof("item")
        if item == "hello":
            self._hello(call, report.hello)
            return
        if call not in self._speakers:
            return
        stack, vcd = self._speakers[call]
        if self._current.get(vcd) != call:
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

    def _hello(self, call: int, hello: agent_pb2.Hello) -> None:
        stack = self._stacks.get(hello.stack)
        vcd = stack.vcds.get(hello.vcd) if stack else None
        if stack is None or vcd is None:
            return
        self._speakers[call] = stack, vcd
        self._current[vcd] = call
        vcd.generation = max(vcd.generation, hello.generation)
        if hello.generation not in (0, vcd.generation):
            return
        missing = [wire.text(probe.name) for probe in hello.probes if probe.problem and not probe.detail]
        stack.hello(vcd, session=hello.session, probes=missing, now_s=self._now_s)
        self._presence(stack, vcd, hello.presence)

    def _presence(self, stack: Stack, vcd: VcdState, presence: agent_pb2.Presence) -> None:
        addresses = wire.addresses(presence.addresses)
        stack.presence(vcd, addresses, wire.listeners(presence), now_s=self._now_s)

    def _end(self, call: int) -> None:
        if call in self._speakers:
            stack, vcd = self._speakers[call]
            if self._current.get(vcd) == call:
                stack.lost(vcd, now_s=self._now_s)
