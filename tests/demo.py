"""The main job on the sample shop: launch, learn, break one service for real, and watch it being taken back.

Run as ``make demo FAULT=…``. Everything happens in a network namespace of its own; nothing is left behind.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import click

from examples.shop import faults
from tests.examples import shop
from tests.lab.namespace import LabError
from tests.lab.podman import PodmanLab

STEP_S = 300
PATIENCE_S = 90
CALM_S = 15
SMOKE = ["/srv/shop/smoke", "--seconds", "20"]


class Fault(NamedTuple):
    """One way to break the shop, and who is responsible then."""

    culprit: str
    story: str
    apply: Callable[[faults.Target], None]


FAULTS = {
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


class DemoError(Exception):
    """The demo did not go as it should; the message says where."""


class Demo:
    """The shop under guard in one lab, driven by the same commands that a user types."""

    def __init__(self, lab: PodmanLab) -> None:
        self._lab = lab
        self._begin_s = time.monotonic()

    def say(self, line: str) -> None:
        """One line of the story, with its time."""
        click.echo(f"[{time.monotonic() - self._begin_s:6.1f} s] {line}")

    def idm(self, *arguments: str, quiet: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run ``idm`` on the shop's manifest; what it prints belongs to the story."""
        files = ["--config", str(self._lab.settings), "-f", str(shop.MANIFEST)]
        done = run([sys.executable, "-m", "idm", *files, *arguments])
        if not quiet:
            for line in (done.stdout + done.stderr).splitlines():
                self.say(f"  idm: {line}")
        return done

    def must(self, *arguments: str) -> None:
        """Run ``idm`` and insist on its success."""
        if (done := self.idm(*arguments)).returncode:
            raise DemoError(f"`idm {' '.join(arguments)}` ended with status {done.returncode}")

    def run(self, vcd: str, command: Sequence[str]) -> None:
        """Run a command inside a VCD, as the faults do."""
        self._lab.podman("exec", f"shop-{vcd}", *command)

    def pid(self, vcd: str) -> int:
        """A process in the VCD's network namespace."""
        return int(self._lab.podman("inspect", "--format", "{{.State.Pid}}", f"shop-{vcd}").stdout)

    def smoke(self) -> bool:
        """Whether the shop answers rightly to its smoke workload now."""
        return self._lab.podman("exec", "shop-client", *SMOKE, check=False).returncode == 0

    def history(self) -> list[dict[str, object]]:
        """The rollbacks so far, newest first."""
        return [json.loads(line) for line in self.idm("history", "--json", quiet=True).stdout.splitlines()]

    def verdict(self) -> str:
        """The verdict now, in one word."""
        status = json.loads(self.idm("status", "--json", quiet=True).stdout)["status"]
        return str(status["verdict"]).removeprefix("VERDICT_").lower()

    @contextmanager
    def events(self) -> Iterator["queue.Queue[dict[str, object]]"]:
        """The manager's events from now on."""
        with contextlib.closing(_Follower(f"unix:{self._lab.directory}/run/shop/dm.sock")) as follower:
            yield follower.events


class _Follower:
    """``dm events --follow``, read line by line."""

    def __init__(self, target: str) -> None:
        self.events: queue.Queue[dict[str, object]] = queue.Queue(1000)
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


def run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command in a session of its own, so that Ctrl-C reaches only the demo, which then cleans up in order."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=STEP_S, check=False, start_new_session=True
    )


def break_and_watch(demo: Demo, name: str) -> dict[str, object]:
    """Break the shop and follow the story to its end; returns the summary."""
    fault = FAULTS[name]
    with demo.events() as events:
        demo.say(f"FAULT {name}: {fault.story}")
        fault_s = time.time()
        fault.apply(demo)
        summary: dict[str, object] = {"fault": name, "verdict": "", "blamed": [], "outcome": ""}
        deadline = time.monotonic() + PATIENCE_S
        while not summary["outcome"]:
            try:
                event = events.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise DemoError(f"no end after {PATIENCE_S} s; the verdict is {demo.verdict()}") from None
            demo.say(f"  {event['kind']}: {event['message']}")
            fields = event.get("fields", {})
            assert isinstance(fields, dict)
            if event["kind"] == "verdict" and fields["verdict"] == "failed":
                summary["verdict"] = "failed"
            summary["outcome"] = fields.get("outcome", "")
    (rollback, *_) = demo.history()
    for suspect in rollback["suspects"][:1]:  # type: ignore[index]
        demo.say(f"blamed: {suspect['name']} (score {suspect['score']:.2f}), because")
        for sentence in suspect["evidence"]:
            demo.say(f"  {sentence}")
    decided_ms, ended_ms = (int(str(rollback[field])) for field in ("decided_ms", "ended_ms"))
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
    blamed = [vcd for rollback in demo.history() for vcd in rollback["vcds"]]  # type: ignore[attr-defined]
    outcome = "rolled back" if blamed else "no rollback"
    return {
        "fault": "none",
        "verdict": demo.verdict(),
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
    return (summary["outcome"], summary["blamed"], smoke) == ("recovered", [FAULTS[name].culprit], True)


def tell(name: str) -> bool:
    """The whole story; returns whether it ended well."""
    with ExitStack() as cleaning:
        lab = cleaning.enter_context(PodmanLab())
        demo = Demo(lab)
        demo.say(f"a private podman in the network namespace {lab.netns}")
        demo.say("the shop's image: built from packages when the cache has none (a minute or two)")
        lab.image(shop.image())
        cleaning.enter_context(shop.payments(lab.namespace))
        cleaning.callback(lambda: demo.idm("down", quiet=True))
        demo.must("up")
        demo.must("capture")
        summary = stay_calm(demo) if name == "none" else break_and_watch(demo, name)
        smoke = demo.smoke()
        demo.say(f"the smoke workload {'passes' if smoke else 'FAILS'}")
        demo.say("cleaning up")
        well = as_it_should(summary, smoke=smoke)
    click.echo(json.dumps(summary))
    return well


@click.command()
@click.option("--fault", type=click.Choice([*FAULTS, "none"]), default="crash", show_default=True)
def main(fault: str) -> None:
    """Launch the sample shop, break it, and see it recover."""

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
        sys.exit(0 if tell(fault) else 1)
    except (DemoError, LabError, subprocess.SubprocessError) as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
