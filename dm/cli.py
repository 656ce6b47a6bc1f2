"""The command line ``dm``."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import click
import grpc
from google.protobuf.json_format import MessageToDict

from dm import render
from dm.client import ManagerError, connect, explain
from dm.options import Peer, manager_option, tls_options
from dm.tls import Tls
from dm.v1 import golden_service_pb2 as golden_pb
from dm.v1 import golden_service_pb2_grpc, stack_service_pb2_grpc
from dm.v1 import stack_service_pb2 as stack_pb

CALL_S = 10.0
RUN = Path("/run/stackmend")

Answer = TypeVar("Answer")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stackmend")
def main() -> None:
    """StackMend's Dependency Manager: the live graph, golden images, verdicts."""


@main.command()
@click.option(
    "--listen", multiple=True, required=True, help="unix:/path/to/dm.sock, or ADDRESS:PORT; repeatable."
)
@click.option(
    "--state", required=True, type=click.Path(path_type=Path), help="SQLite file for durable state."
)
@click.option(
    "--metrics",
    metavar="ADDRESS:PORT",
    help="Serve metrics in Prometheus' format to whoever reaches this address, such as 127.0.0.1:9465.",
)
@tls_options
def serve(listen: tuple[str, ...], state: Path, metrics: str | None, tls: Tls | None) -> None:
    """Serve agents, deployers and command lines until SIGTERM."""
    # The server's libraries are of no use to the other commands and take a while to load.
    from dm.log import configure
    from dm.service.server import ServeError
    from dm.service.server import serve as run
    from dm.store.sqlite import Store, StoreError

    configure()
    try:
        with Store(state) as store:
            asyncio.run(run(store, *listen, tls=tls, metrics=metrics, ready=_notify_ready))
    except (ServeError, StoreError) as error:
        _fail(str(error))


@main.command()
@click.argument("stack", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@manager_option
def status(stack: str, as_json: bool, peer: Peer) -> None:
    """Show the verdict on STACK, or on all; exit 0 only if all are ok or launching."""

    async def call(channel: grpc.aio.Channel) -> stack_pb.ListStacksResponse:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        if not stack:
            return await stub.ListStacks(stack_pb.ListStacksRequest(), timeout=CALL_S)
        reply = await stub.GetStatus(stack_pb.GetStatusRequest(stack=stack), timeout=CALL_S)
        return stack_pb.ListStacksResponse(stacks=[reply.status])

    reply = _ask(peer, call)
    if as_json:
        click.echo(
            json.dumps(
                [MessageToDict(one, preserving_proto_field_name=True) for one in reply.stacks], indent=2
            )
        )
    else:
        click.echo("\n".join(render.status_text(one) for one in reply.stacks) or "no stack is deployed")
    words = {render.verdict(one.verdict) for one in reply.stacks}
    sys.exit(0 if words <= {"ok", "launching"} else 1)


@main.command()
@click.argument("stack")
@click.option("--format", "form", type=click.Choice(["text", "json", "dot", "mermaid"]), default="text")
@manager_option
def graph(stack: str, form: str, peer: Peer) -> None:
    """Show STACK's live graph held against its golden image."""

    async def call(channel: grpc.aio.Channel) -> stack_pb.GetGraphResponse:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        return await stub.GetGraph(stack_pb.GetGraphRequest(stack=stack), timeout=CALL_S)

    reply = _ask(peer, call)
    match form:
        case "json":
            click.echo(render.graph_json(reply))
        case "dot":
            click.echo(render.graph_dot(reply, name=stack))
        case "mermaid":
            click.echo(render.graph_mermaid(reply))
        case _:
            click.echo(render.graph_text(reply))


@main.command()
@click.argument("stack", required=False, default="")
@click.option(
    "--past", default=20, show_default=True, type=click.IntRange(0), help="Past events to show first."
)
@click.option("--follow", is_flag=True, help="Go on with new events until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@manager_option
def events(stack: str, past: int, follow: bool, as_json: bool, peer: Peer) -> None:
    """Show what happened in STACK, or in all."""

    async def call(channel: grpc.aio.Channel) -> None:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        request = stack_pb.WatchEventsRequest(stack=stack, past=past, follow=follow)
        async for item in stub.WatchEvents(request, timeout=None if follow else CALL_S):
            if item.WhichOneof("item") == "lost":
                click.echo(f"({item.lost} events were dropped here: this reader was too slow)", err=True)
            elif as_json:
                click.echo(json.dumps(MessageToDict(item.event, preserving_proto_field_name=True)))
            else:
                event = item.event
                click.echo(f"{_clock(event.time_ms)}  {event.stack}  {event.kind}  {event.message}")

    _ask(peer, call)


@main.group()
def golden() -> None:
    """Golden images: the expected dependencies of a good launch."""


@golden.command("capture")
@click.argument("stack")
@click.option("--merge", "join", is_flag=True, help="Add this launch to the image in force.")
@manager_option
def golden_capture(stack: str, join: bool, peer: Peer) -> None:
    """Learn an image from the live STACK (without a snapshot: `idm capture` takes both)."""
    request = golden_pb.CaptureGoldenRequest(stack=stack, merge=join)
    reply = _golden(peer, lambda stub: stub.CaptureGolden(request, timeout=CALL_S))
    _say_summary(reply.golden)


@golden.command("list")
@click.argument("stack", required=False, default="")
@manager_option
def golden_list(stack: str, peer: Peer) -> None:
    """List the images, newest first."""
    request = golden_pb.ListGoldenRequest(stack=stack)
    for summary in _golden(peer, lambda stub: stub.ListGolden(request, timeout=CALL_S)).golden:
        _say_summary(summary)


@golden.command("show")
@click.argument("image")
@manager_option
def golden_show(image: str, peer: Peer) -> None:
    """Print an IMAGE (its identifier, or a stack's name for the one in force) as JSON."""
    request = golden_pb.GetGoldenRequest(id=image)
    reply = _golden(peer, lambda stub: stub.GetGolden(request, timeout=CALL_S))
    click.echo(reply.document, nl=False)


@golden.command("export")
@click.argument("image")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@manager_option
def golden_export(image: str, file: Path, peer: Peer) -> None:
    """Write an IMAGE to FILE."""
    request = golden_pb.GetGoldenRequest(id=image)
    reply = _golden(peer, lambda stub: stub.GetGolden(request, timeout=CALL_S))
    try:
        file.write_text(reply.document)
    except OSError as error:
        _fail(f"cannot write {file}: {error.strerror}; choose another file")


@golden.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@manager_option
def golden_import(file: Path, peer: Peer) -> None:
    """Take in an image from FILE and put it in force."""
    try:
        document = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"cannot read {file}: {error}; name a file written by `dm golden export`")
    request = golden_pb.ImportGoldenRequest(document=document)
    _say_summary(_golden(peer, lambda stub: stub.ImportGolden(request, timeout=CALL_S)).golden)


@golden.command("diff")
@click.argument("image")
@click.argument("other", required=False, default="")
@manager_option
def golden_diff(image: str, other: str, peer: Peer) -> None:
    """Show what differs between IMAGE and OTHER, or the live stack; exit 1 if anything does."""
    request = golden_pb.DiffGoldenRequest(id=image, other=other)
    reply = _golden(peer, lambda stub: stub.DiffGolden(request, timeout=CALL_S))
    for line in reply.lines:
        click.echo(line)
    sys.exit(1 if reply.lines else 0)


@golden.command("merge")
@click.argument("images", nargs=-1, required=True)
@manager_option
def golden_merge(images: tuple[str, ...], peer: Peer) -> None:
    """Learn one image from all the launches of several IMAGES."""
    request = golden_pb.MergeGoldenRequest(ids=images)
    _say_summary(_golden(peer, lambda stub: stub.MergeGolden(request, timeout=CALL_S)).golden)


@golden.command("rm")
@click.argument("image")
@manager_option
def golden_rm(image: str, peer: Peer) -> None:
    """Delete an IMAGE."""
    request = golden_pb.DeleteGoldenRequest(id=image)
    _golden(peer, lambda stub: stub.DeleteGolden(request, timeout=CALL_S))


def _golden(
    peer: Peer, call: Callable[["golden_service_pb2_grpc.GoldenServiceAsyncStub"], Awaitable[Answer]]
) -> Answer:
    async def ask(channel: grpc.aio.Channel) -> Answer:
        return await call(golden_service_pb2_grpc.GoldenServiceStub(channel))

    return _ask(peer, ask)


def _ask(peer: Peer, call: Callable[[grpc.aio.Channel], Awaitable[Answer]]) -> Answer:
    """Run one call; every failure becomes one line."""

    async def run() -> Answer:
        async with _reached(peer) as channel:
            return await call(channel)

    try:
        return asyncio.run(run())
    except ManagerError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


@asynccontextmanager
async def _reached(peer: Peer) -> AsyncIterator[grpc.aio.Channel]:
    target = peer.target or _only_manager()
    try:
        async with connect(target, tls=peer.tls) as channel:
            yield channel
    except grpc.RpcError as error:
        raise explain(error, target=target) from error


def _only_manager() -> str:
    """The one manager that runs on this machine."""
    found = sorted(RUN.glob("*/dm.sock"))
    if len(found) == 1:
        return f"unix:{found[0]}"
    if found:
        names = ", ".join(f"unix:{path}" for path in found)
        raise ManagerError(f"several managers run here: choose one with --dm ({names})")
    raise ManagerError(
        f"no manager runs here (nothing in {RUN}/*/dm.sock): name one with --dm, or use `idm up`"
    )


def _say_summary(summary: golden_pb.GoldenSummary) -> None:
    current = "  (in force)" if summary.current else ""
    made = datetime.fromtimestamp(summary.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    launches = f"{summary.runs} launch{'es' if summary.runs != 1 else ''}"
    click.echo(f"{summary.id}  {summary.stack}  {summary.edges} edges  {launches}  {made}{current}")


def _clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def _notify_ready() -> None:
    """Tell a supervisor that asked for it (sd_notify) that calls are served."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", name)


def _fail(message: str) -> NoReturn:
    click.echo(f"dm: {message}", err=True)
    sys.exit(1)
