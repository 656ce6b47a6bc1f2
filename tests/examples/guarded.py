"""The sample shop under guard in a lab, driven by the same commands that a user types."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from dm.v1 import rollback_service_pb2, stack_service_pb2
from dm.v1.rollback_service_pb2_grpc import RollbackServiceStub
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.manifest import load
from tests.examples import shop
from tests.examples.place import Containers, Guests, Place
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError
from tests.lab.podman import PodmanLab

COMMAND_S = 600
CALL_S = 5
Answer = TypeVar("Answer")
S = TypeVar("S", bound="GuardedShop")


class GuardedShop:
    """Runs ``idm`` on the shop's manifest in one lab. Also a target for ``examples.shop.faults``."""

    def __init__(self, place: Place, *, manifest: Path) -> None:
        self.place = place
        self.manifest = manifest
        self.run_directory = place.run_directory / "shop"
        self.manager = f"unix:{self.run_directory}/dm.sock"
        smoke = load(manifest).smoke
        assert smoke is not None
        self._smoke = smoke

    def idm_command(self, *arguments: str) -> list[str]:
        """The command line of ``idm`` for this shop."""
        files = ["--config", str(self.place.settings), "-f", str(self.manifest)]
        return self.place.beside(sys.executable, "-m", "idm", *files, *arguments)

    def idm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``idm`` to its end, in a session of its own: Ctrl-C is for the caller, who then cleans up in order."""
        return subprocess.run(
            self.idm_command(*arguments),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            start_new_session=True,
        )

    def run(self, vcd: str, command: Sequence[str]) -> None:
        """Run a command inside a VCD; raises LabError with its own words when it fails."""
        done = self.place.execute(vcd, command)
        if done.returncode:
            raise LabError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")

    def load_filter(self, vcd: str, rules: str) -> None:
        """Load a packet filter's rules in a VCD's network."""
        self.place.load_filter(vcd, rules)

    def smoke(self) -> str:
        """Run the smoke workload; returns what is wrong with the shop's answers, empty when they are right."""
        done = self.place.execute(self._smoke.vcd, self._smoke.command)
        return f"{done.stdout}{done.stderr}".strip() if done.returncode else ""

    def history(self) -> list[dict[str, Any]]:
        """The rollbacks so far, newest first, as JSON has them; empty while no manager answers."""
        request = rollback_service_pb2.ListRollbacksRequest(stack="shop")
        reply = self._ask(lambda at: RollbackServiceStub(at).ListRollbacks(request, timeout=CALL_S))
        return [_plain(one) for one in reply.rollbacks] if reply else []

    def status(self) -> dict[str, Any]:
        """The manager's status, as JSON has it; empty while no manager answers."""
        request = stack_service_pb2.GetStatusRequest(stack="shop")
        reply = self._ask(lambda at: StackServiceStub(at).GetStatus(request, timeout=CALL_S))
        return _plain(reply.status) if reply else {}

    def verdict(self) -> str:
        """The verdict now, in one word; empty while no manager answers."""
        return str(self.status().get("verdict", "")).removeprefix("VERDICT_").lower()

    def until(self, met: Callable[[], object], *, within_s: float, what: str) -> float:
        """Wait for a condition; returns the seconds that it took, raises AssertionError when it does not come."""
        begin_s = time.monotonic()
        while not met():
            if time.monotonic() - begin_s > within_s:
                raise AssertionError(f"{what}: not within {within_s} s; {self.status()}")
            time.sleep(0.1)
        return time.monotonic() - begin_s

    def _ask(self, call: Callable[[grpc.Channel], Answer]) -> Answer | None:
        with grpc.insecure_channel(self.manager) as channel:
            try:
                return call(channel)
            except grpc.RpcError:
                return None

    def pids(self) -> Mapping[str, int]:
        """The processes that idm started, by name (``dm``, ``watch``, ``agent-…``)."""
        return {path.stem: int(path.read_text().split()[0]) for path in self.run_directory.glob("*.pid")}


class GuardedGuests(GuardedShop):
    """The shop's guests, to which more can happen than to containers."""

    place: Guests

    def __init__(self, place: Guests, *, manifest: Path) -> None:
        super().__init__(place, manifest=manifest)
        self.place = place


def _plain(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return document


@contextmanager
def shop_lab(lab: PodmanLab, *, manifest: Path = shop.MANIFEST) -> Iterator[GuardedShop]:
    """The shop's image and its payments provider in a lab; whatever was brought up is taken down."""
    lab.image(shop.image())
    with _guarded(GuardedShop(Containers(lab), manifest=manifest)) as guarded:
        yield guarded


@contextmanager
def shop_guests(lab: LibvirtLab, *, manifest: Path = shop.GUESTS) -> Iterator[GuardedGuests]:
    """The shop's guests at work in a lab made with its ``GATEWAY``; whatever was brought up is taken down."""
    guests = Guests(lab, shop.guests(lab, manifest))
    with _guarded(GuardedGuests(guests, manifest=manifest)) as guarded:
        yield guarded


@contextmanager
def _guarded(guarded: S) -> Iterator[S]:
    with shop.payments(guarded.place.namespace):
        try:
            yield guarded
        finally:
            guarded.idm("down")
