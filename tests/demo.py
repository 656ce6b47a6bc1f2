"""The main job on the sample shop: launch, learn, break one service for real, and watch it being taken back.

Run as ``make demo FAULT=… DRIVER=…``, on containers or on VMs. Everything happens in a network namespace of its own;
nothing is left behind.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import click

from examples.shop import faults
from tests.examples.guarded import COMMAND_S, GuardedGuests, GuardedShop, shop_guests, shop_lab
from tests.examples.shop import GATEWAY
from tests.lab.libvirt import LibvirtLab
from tests.lab.namespace import LabError
from tests.lab.podman import PodmanLab

PATIENCE_S = 180
CALM_S = 15
T = TypeVar("T", contravariant=True)


class Fault(NamedTuple, Generic[T]):
    """One way to break the shop, and who is responsible then."""

    culprit: str
    story: str
    apply: Callable[[T], None]


FAULTS: dict[str, Fault[faults.Target]] = {
    "crash": Fault(
        "cache", "the cache is killed and its program taken away", lambda t: faults.crash(t, "cache")
    ),
    "misconfig": Fault(
        "api",
        f"the api is pointed at {faults.NOBODY} for its database",
        lambda t: faults.misconfig(t, "api", "db", f"{faults.NOBODY}:5432"),
    ),
    "partition": Fault(
        "api", "a packet filter drops all traffic of the api", lambda t: faults.partition(t, "api")
    ),
    "corrupt": Fault("db", "the database's files are overwritten", lambda t: faults.corrupt(t, "db")),
}
# Machines with a processor, a kernel and a disk of their own lose these, too.
GUEST_FAULTS: dict[str, Fault[GuardedGuests]] = {
    **FAULTS,
    "hung": Fault("db", "the processor of the database's VM stands still", lambda t: t.place.suspend("db")),
    "off": Fault("cache", "the cache's VM loses its power", lambda t: t.place.power_off("cache")),
    "panic": Fault("db", "the kernel of the database's VM panics", lambda t: t.place.panic("db")),
    "disk": Fault("db", "the database's VM loses its file system", lambda t: faults.ruin_disk(t, "db")),
}


class DemoError(Exception):
    """The demo did not go as it should; the message says where."""


class Demo:
    """Tells what happens, with its time."""

    def __init__(self, shop: GuardedShop) -> None:
        self.shop = shop
        self._begin_s = time.monotonic()

    def say(self, line: str) -> None:
        """One line of the story."""
        click.echo(f"[{time.monotonic() - self._begin_s:6.1f} s] {line}")

    def must(self, *arguments: str) -> None:
        """Run ``idm``, show what it prints as it does, and insist on its success."""
        with subprocess.Popen(
            self.shop.idm_command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as idm:
            too_long = threading.Timer(COMMAND_S, idm.kill)
            too_long.start()
            assert idm.stdout is not None
            try:
                for line in idm.stdout:
                    self.say(f"  idm: {line.rstrip()}")
                idm.wait()
            finally:
                # Who interrupts the demo does not reach a session of its own.
                too_long.cancel()
                idm.kill()
        if idm.returncode:
            raise DemoError(f"`idm {' '.join(arguments)}` ended with status {idm.returncode}")

    @contextmanager
    def events(self) -> Iterator["queue.Queue[dict[str, Any]]"]:
        """The manager's events from now on."""
        with contextlib.closing(_Follower(self.shop.manager)) as follower:
            yield follower.events


class _Follower:
    """``dm events --follow``, read line by line."""

    def __init__(self, target: str) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue(1000)
        command = [sys.executable, "-m", "dm", "events", "--follow", "--past", "0", "--json", "--dm", target]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.put(json.loads(line))

    def close(self) -> None:
        """End the command."""
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def break_and_watch(demo: Demo, name: str, apply: Callable[[], None]) -> dict[str, object]:
    """Break the shop and follow the story to its end; returns the summary."""
    with demo.events() as events:
        demo.say(f"FAULT {name}: {GUEST_FAULTS[name].story}")
        apply()
        fault_s = time.time()
        summary: dict[str, object] = {"fault": name, "verdict": "", "blamed": [], "outcome": ""}
        deadline = time.monotonic() + PATIENCE_S
        while not summary["outcome"]:
            try:
                event = events.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise DemoError(
                    f"no end after {PATIENCE_S} s; the verdict is {demo.shop.verdict()}"
                ) from None
            demo.say(f"  {event['kind']}: {event['message']}")
            fields = event.get("fields", {})
            if event["kind"] == "verdict" and fields["verdict"] == "failed":
                summary["verdict"] = "failed"
            summary["outcome"] = fields.get("outcome", "")
    (rollback, *_) = demo.shop.history()
    for suspect in rollback["suspects"][:1]:
        demo.say(f"blamed: {suspect['name']} (score {suspect['score']:.2f}), because")
        for sentence in suspect["evidence"]:
            demo.say(f"  {sentence}")
    decided_ms, ended_ms = int(rollback["decided_ms"]), int(rollback["ended_ms"])
    if reverted_ms := int(rollback.get("reverted_ms", 0)):
        took_s = (reverted_ms - decided_ms) / 1000
        demo.say(f"{', '.join(rollback['vcds'])}: running again {took_s:.2f} s after the decision")
    summary["blamed"] = rollback["vcds"]
    summary["detect_s"] = round(decided_ms / 1000 - fault_s, 2)
    summary["recover_s"] = round(ended_ms / 1000 - fault_s, 2)
    return summary


def stay_calm(demo: Demo) -> dict[str, object]:
    """Break nothing, and see that nothing happens."""
    demo.say(f"FAULT none: nothing is broken; watching for {CALM_S} s")
    with demo.events() as events:
        deadline = time.monotonic() + CALM_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = events.get(timeout=left)
            except queue.Empty:
                break
            demo.say(f"  {event['kind']}: {event['message']}")
    blamed = [vcd for rollback in demo.shop.history() for vcd in rollback["vcds"]]
    outcome = "rolled back" if blamed else "no rollback"
    return {
        "fault": "none",
        "verdict": demo.shop.verdict(),
        "blamed": blamed,
        "outcome": outcome,
        "detect_s": None,
        "recover_s": None,
    }


def as_it_should(summary: dict[str, object], *, smoke: bool) -> bool:
    """Whether the fault ended as it should."""
    name = str(summary["fault"])
    if name == "none":
        return (summary["outcome"], summary["verdict"], smoke) == ("no rollback", "ok", True)
    return (summary["outcome"], summary["blamed"], smoke) == ("recovered", [GUEST_FAULTS[name].culprit], True)


@contextmanager
def in_containers(name: str) -> Iterator[tuple[Demo, Callable[[], None]]]:
    """The shop in containers, and what breaks it."""
    click.echo("the shop's image is built from packages when the cache has none, which takes a minute or two")
    with PodmanLab() as lab, shop_lab(lab) as shop:
        demo = Demo(shop)
        demo.say(f"a private podman in the network namespace {lab.netns}")
        yield demo, lambda: FAULTS[name].apply(shop)


@contextmanager
def in_guests(name: str) -> Iterator[tuple[Demo, Callable[[], None]]]:
    """The shop in VMs, and what breaks it."""
    click.echo("the VMs' image is built from packages when the cache has none, which takes some minutes")
    with LibvirtLab(gateway=GATEWAY) as lab, shop_guests(lab) as shop:
        demo = Demo(shop)
        demo.say(f"a private libvirtd in the network namespace {lab.namespace.name}, and five VMs that run")
        yield demo, lambda: GUEST_FAULTS[name].apply(shop)


def tell(name: str, place: "AbstractContextManager[tuple[Demo, Callable[[], None]]]") -> bool:
    """The whole story; returns whether it ended well."""
    with place as (demo, apply):
        demo.must("up")
        demo.must("capture")
        summary = stay_calm(demo) if name == "none" else break_and_watch(demo, name, apply)
        wrong = demo.shop.smoke()
        demo.say(f"the smoke workload {f'FAILS: {wrong}' if wrong else 'passes'}")
        demo.say("cleaning up")
        well = as_it_should(summary, smoke=not wrong)
    click.echo(json.dumps(summary))
    return well


@click.command()
@click.option("--fault", type=click.Choice([*GUEST_FAULTS, "none"]), default="crash", show_default=True)
@click.option("--driver", type=click.Choice(["podman", "libvirt"]), default="podman", show_default=True)
def main(fault: str, driver: str) -> None:
    """Launch the sample shop, break it, and see it recover."""
    if driver == "podman" and fault not in (*FAULTS, "none"):
        raise click.UsageError(f"{fault} happens to machines only: add --driver libvirt (DRIVER=libvirt)")

    def interrupted(number: int, _: object) -> NoReturn:
        # Cleaning up may not be interrupted in its turn.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        click.echo(f"interrupted by {signal.Signals(number).name}: cleaning up", err=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    try:
        place = in_guests(fault) if driver == "libvirt" else in_containers(fault)
        sys.exit(0 if tell(fault, place) else 1)
    except (DemoError, LabError, subprocess.SubprocessError) as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
