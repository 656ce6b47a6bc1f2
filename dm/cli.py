"""The command line ``dm``."""

import asyncio
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import grpc
from google.protobuf.json_format import MessageToDict

from dm import render
from dm.asking import CALL_S, ask, fail
from dm.golden_cli import golden
from dm.options import Peer, manager_option, tls_options
from dm.replay_cli import replay
from dm.tls import Tls
from dm.v1 import stack_service_pb2 as stack_pb
from dm.v1 import stack_service_pb2_grpc


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
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    envvar="STACKMEND_RECORD",
    help="Keep in this file what agents and deployers say, 64 MiB at most: for a bug report.",
)
@tls_options
def serve(
    listen: tuple[str, ...], state: Path, metrics: str | None, record: Path | None, tls: Tls | None
) -> None:
    """Serve agents, deployers and command lines until SIGTERM."""
    # The server's libraries are of no use to the other commands and take a while to load.
    from dm.log import configure
    from dm.service.server import ServeError
    from dm.service.server import serve as run
    from dm.store.sqlite import Store, StoreError

    configure()
    try:
        with Store(state) as store:
            asyncio.run(run(store, *listen, tls=tls, metrics=metrics, record=record, ready=_notify_ready))
    except (ServeError, StoreError) as error:
        fail(str(error))


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

    reply = ask(peer, call)
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

    reply = ask(peer, call)
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
@click.argument("stack")
@click.argument("vcd", required=False, default="")
@click.option("--all", "everything", is_flag=True, help="Also the edges that are as they should be.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@manager_option
def explain(stack: str, vcd: str, everything: bool, as_json: bool, peer: Peer) -> None:
    """Say why STACK is judged as it is, edge by edge; only the edges of VCD if one is named."""

    async def call(channel: grpc.aio.Channel) -> stack_pb.ExplainResponse:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        return await stub.Explain(stack_pb.ExplainRequest(stack=stack, vcd=vcd), timeout=CALL_S)

    reply = ask(peer, call)
    if as_json:
        click.echo(json.dumps(MessageToDict(reply, preserving_proto_field_name=True), indent=2))
    else:
        click.echo(render.explanation_text(reply, everything=everything or bool(vcd)))


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

    ask(peer, call)


main.add_command(golden)
main.add_command(replay)


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
