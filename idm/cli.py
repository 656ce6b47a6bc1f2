"""The command line ``idm``."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import structlog
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from dm.client import ManagerError
from dm.v1.rollback_service_pb2 import ROLLBACK_OUTCOME_RECOVERED, ROLLBACK_PHASE_DONE, Rollback
from dm.v1.stack_pb2 import ROLLBACK_MODE_OBSERVE, VERDICT_OK
from idm import operations
from idm.capture import capture, prune, run_smoke, wait_until_quiet
from idm.choice import Choice
from idm.commands import adopt_command, bundle_command
from idm.declaration import MODES
from idm.deployment import RELOAD
from idm.down import down
from idm.driver import DriverError
from idm.errors import DeployError
from idm.launch import up
from idm.lock import holder
from idm.manager import status
from idm.manifest import ManifestError
from idm.process import MARK
from idm.progress import Progress, describe, figures, outcome_word, suspicions, verdict_word
from idm.settings import SettingsError
from idm.snapshots import newest_first
from idm.stack import Stack
from idm.triggers import vagrant_command
from idm.watch import end_on_signal, hand_over, say_ready, watch

THREADS = 32
CANCEL_AGAIN_S = 2.0

Answer = TypeVar("Answer")


class Commands(click.Group):
    """Every expected error of any command becomes one line."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (DeployError, DriverError, ManagerError, ManifestError, SettingsError) as e:
            _fail(str(e))
        except sqlite3.Error as e:
            _fail(f"the journal cannot be written: {e} (is the disk full?)")
        except BaseExceptionGroup as group:
            expected, unexpected = group.split((DeployError, DriverError, ManagerError))
            if unexpected is not None or expected is None:
                raise
            _fail(str(next(_leaves(expected))))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stackmend")
@click.option(
    "-f",
    "--file",
    "manifest",
    default="stack.toml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The stack's manifest.",
)
@click.option("--config", type=click.Path(path_type=Path), help="This host's settings.")
@click.pass_context
def main(context: click.Context, manifest: Path, config: Path | None) -> None:
    """StackMend's deployer: launches a stack, attends to it, takes back what broke it."""
    # Set when another idm started this one; children of its own must not inherit it.
    os.environ.pop(MARK, None)
    context.obj = Choice(manifest, config)


for _command in (bundle_command, adopt_command, vagrant_command):
    main.add_command(_command)


@main.command("up")
@click.option(
    "--deadline", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds to become whole."
)
@click.option("--foreground", is_flag=True, help="Stay, and attend to the stack from here.")
@click.option(
    "--no-watch", is_flag=True, help="Leave the stack unattended: nothing is rolled back afterwards."
)
@click.pass_obj
def up_command(choice: Choice, deadline: float, *, foreground: bool, no_watch: bool) -> None:
    """Bring the stack up and make it whole; then attend to it in the background."""
    if foreground and no_watch:
        raise click.UsageError("--foreground and --no-watch contradict each other: choose one")
    # What goes wrong with a child for good becomes the error of this command, with the end of the child's log.
    _configure_log(logging.INFO if foreground else logging.ERROR)
    with choice.stack() as stack, Progress(Console()) as progress:

        async def stay(line: str) -> None:
            progress.note(line)
            if foreground:
                progress.note("attending to the stack until interrupted")
                ending = end_on_signal()
                say_ready()
                await ending.wait()

        _run(up(stack, progress, deadline_s=deadline, on_success=stay))
        if not foreground and not no_watch:
            pid = hand_over(stack.home.run, manifest=choice.manifest, config=choice.config)
            progress.note(f"process {pid} attends to the stack; `idm down` ends it")


@main.command("watch")
@click.pass_obj
def watch_command(choice: Choice) -> None:
    """Attend to a stack that is up, until SIGTERM."""
    _configure_log(logging.INFO)
    with choice.stack() as stack:
        _run(watch(stack))


@main.command("capture")
@click.option("--merge", is_flag=True, help="Add this launch to the golden image in force.")
@click.pass_obj
def capture_command(choice: Choice, *, merge: bool) -> None:
    """Learn the golden image of the running stack and snapshot every VCD."""
    _configure_log(logging.WARNING)
    with choice.stack() as stack:

        async def run() -> None:
            smoke = await run_smoke(stack)
            click.echo(
                "the smoke workload passed"
                if smoke
                else "no smoke workload: only what runs by itself is learned"
            )
            await wait_until_quiet(stack, click.echo)
            learned, snapshots = await capture(stack, smoke=smoke, merge=merge)
            golden = learned.golden
            launches = f"{golden.runs} launch{'es' if golden.runs != 1 else ''}"
            click.echo(f"golden image {golden.id}: {golden.edges} edges from {launches}")
            for sentence in learned.sentences:
                click.echo(f"  {sentence}")
            click.echo(f"snapshot {snapshots[0].tag} of {len(snapshots)} VCDs")
            expired = await asyncio.to_thread(prune, stack, golden=golden.id)
            if expired:
                click.echo(f"deleted older snapshots: {', '.join(newest_first(expired))}")

        _run(run())


@main.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status_command(choice: Choice, *, as_json: bool) -> None:
    """Show what is judged and what runs; exit 0 only if the stack is ok."""
    with choice.stack() as stack:
        now = _run(status(stack.operator(), stack.name))
        instances = stack.driver.instances()
    if as_json:
        powers = {vcd: instance.power.value for vcd, instance in instances.items()}
        document = {"status": MessageToDict(now, preserving_proto_field_name=True), "instances": powers}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"{stack.name}: {verdict_word(now.verdict)}, {figures(now)}")
        for line in (*now.reasons, *suspicions(now)):
            click.echo(f"  {line}")
        for vcd in stack.vcds:
            power = instances[vcd].power.value if vcd in instances else "absent"
            click.echo(f"  {vcd:<20} {power:<8} deviation {now.vcd_deviation.get(vcd, 0.0):.0%}")
    sys.exit(0 if now.verdict == VERDICT_OK else 1)


@main.command("history")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@click.pass_obj
def history_command(choice: Choice, limit: int, *, as_json: bool) -> None:
    """List the rollbacks of the stack, newest first."""
    with choice.stack() as stack:
        rollbacks = _run(operations.history(stack, limit=limit))
    for rollback in rollbacks:
        if as_json:
            click.echo(json.dumps(MessageToDict(rollback, preserving_proto_field_name=True)))
        else:
            click.echo(f"{_clock(rollback.decided_ms)}  {describe(rollback)}")
    if not rollbacks and not as_json:
        click.echo("nothing was ever rolled back")


@main.command("rollback")
@click.argument("vcds", nargs=-1, required=True, metavar="VCD...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--deadline",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for its end.",
)
@click.pass_obj
def rollback_command(choice: Choice, vcds: tuple[str, ...], deadline: float, *, yes: bool) -> None:
    """Take VCDs back to the newest snapshot of the golden image in force."""
    with choice.stack() as stack:
        if not yes:
            click.confirm(f"Take back {', '.join(vcds)}? What changed since the snapshot is lost", abort=True)
        operation = _run(operations.roll_back(stack, vcds))
        _run(_follow(stack, operation.operation, deadline_s=deadline))


@main.command("approve")
@click.argument("operation")
@click.option(
    "--deadline",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for its end.",
)
@click.pass_obj
def approve_command(choice: Choice, operation: str, deadline: float) -> None:
    """Let a rollback go on that waits for a person, and follow it to its end."""
    with choice.stack() as stack:
        _run(operations.resolve(stack, operation, approve=True))
        _run(_follow(stack, operation, deadline_s=deadline))


@main.command("reject")
@click.argument("operation")
@click.pass_obj
def reject_command(choice: Choice, operation: str) -> None:
    """Refuse a rollback that waits for a person."""
    with choice.stack() as stack:
        click.echo(describe(_run(operations.resolve(stack, operation, approve=False))))


@main.command("guard")
@click.argument("switch", type=click.Choice(["on", "off"]))
@click.pass_obj
def guard_command(choice: Choice, switch: str) -> None:
    """Switch rollbacks off (the kill switch), or on again as the manifest has it."""
    with choice.stack() as stack:
        mode = ROLLBACK_MODE_OBSERVE if switch == "off" else MODES[stack.manifest.rollback.mode]
        _run(operations.set_guard(stack, mode))
    click.echo(
        "nothing is rolled back from now on"
        if switch == "off"
        else f"mode: {stack.manifest.rollback.mode.value}"
    )


@main.command("reload")
@click.pass_obj
def reload_command(choice: Choice) -> None:
    """Take the manifest's [judge] and [rollback] into use, without launching the stack anew."""
    with choice.stack() as stack:
        if (deployer := holder(stack.home.deployer_lock)) is None:
            raise DeployError(
                f"nobody attends to {stack.name}: `idm up` launches it, `idm watch` attends to it"
            )
        with deployer:
            deployer.signal(RELOAD)
        click.echo(
            f"process {deployer.pid} takes the settings into use: `dm explain {stack.name}` shows them"
        )


@main.command("snapshots")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def snapshots_command(choice: Choice, *, as_json: bool) -> None:
    """List the snapshots of the stack, newest first."""
    with choice.stack() as stack:
        snapshots = stack.driver.snapshots()
    for tag in newest_first(snapshots):
        parts = [snapshot for snapshot in snapshots if snapshot.tag == tag]
        vcds, size = sorted(part.vcd for part in parts), sum(part.size for part in parts)
        created = min(part.created for part in parts).astimezone(UTC)
        if as_json:
            facts = {
                "tag": tag,
                "golden": parts[0].golden,
                "created": created.isoformat(),
                "vcds": vcds,
                "bytes": size,
            }
            click.echo(json.dumps(facts))
        else:
            click.echo(f"{tag}  {created:%Y-%m-%d %H:%M:%S}  {size / 1e6:.1f} MB  {', '.join(vcds)}")
    if not snapshots and not as_json:
        click.echo("no snapshots: `idm capture` takes them")


@main.command("down")
@click.option("--keep-snapshots", is_flag=True, help="Remove the instances only.")
@click.pass_obj
def down_command(choice: Choice, *, keep_snapshots: bool) -> None:
    """End everything that belongs to the stack; golden images and history stay."""
    _configure_log(logging.WARNING)
    with choice.stack() as stack:
        left = _run(down(stack, keep_snapshots=keep_snapshots))
    for line in left:
        click.echo(line, err=True)
    click.echo(f"{stack.name} is down")


async def _follow(stack: Stack, operation: str, *, deadline_s: float) -> None:
    """Show an operation to its end; only a recovered stack is a success."""
    seen = ""

    def show(rollback: Rollback) -> None:
        nonlocal seen
        if (line := describe(rollback)) != seen:
            click.echo(line)
        seen = line

    rollback = await operations.follow(stack, operation, show, timeout_s=deadline_s)
    if rollback.phase == ROLLBACK_PHASE_DONE and rollback.outcome != ROLLBACK_OUTCOME_RECOVERED:
        why = rollback.detail or "see `idm status`"
        raise DeployError(f"rollback {operation} ended as {outcome_word(rollback.outcome)}: {why}")


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    async def with_threads() -> Answer:
        # Enough that a restore never queues behind evidence or a smoke workload.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "idm"))
        _cancel_on_interrupt()
        return await work

    try:
        return asyncio.run(with_threads())
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("interrupted; what runs goes on: `idm watch` attends to it, `idm down` removes it", status=130)


def _cancel_on_interrupt() -> None:
    """Let SIGINT cancel this task, again and again until it ends: Python 3.11 can lose a cancellation on the way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        if task is not None and not task.done():
            task.cancel()
            loop.call_later(CANCEL_AGAIN_S, cancel)

    loop.add_signal_handler(signal.SIGINT, cancel)


def _fail(message: str, *, status: int = 1) -> NoReturn:
    click.echo(f"idm: {' '.join(message.split())}", err=True)
    sys.exit(status)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _clock(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _configure_log(level: int) -> None:
    """Lines for a person on a terminal, else JSON for a collector; on whatever standard error is at the time."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
