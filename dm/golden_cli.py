"""The commands ``dm golden …``."""

import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from dm.asking import CALL_S, ask, fail
from dm.golden import GoldenError, decode, schema
from dm.options import Peer, manager_option
from dm.v1 import golden_service_pb2 as golden_pb
from dm.v1 import golden_service_pb2_grpc

Answer = TypeVar("Answer")
_ACTIONS = {
    "pin": golden_pb.RULE_ACTION_PIN,
    "tolerate": golden_pb.RULE_ACTION_TOLERATE,
    "ignore": golden_pb.RULE_ACTION_IGNORE,
    "none": golden_pb.RULE_ACTION_UNSPECIFIED,
}


@click.group()
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
    for sentence in reply.sentences:
        click.echo(f"  {sentence}")


@golden.command("list")
@click.argument("stack", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@manager_option
def golden_list(stack: str, as_json: bool, peer: Peer) -> None:
    """List the images of STACK, or of all, newest first."""
    request = golden_pb.ListGoldenRequest(stack=stack)
    images = _golden(peer, lambda stub: stub.ListGolden(request, timeout=CALL_S)).golden
    if as_json:
        _say_json(images)
    elif not images:
        click.echo("no golden images: `idm capture` learns one of a good launch")
    else:
        for summary in images:
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
        fail(f"cannot write {file}: {error.strerror}; choose another file")


@golden.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@manager_option
def golden_import(file: Path, peer: Peer) -> None:
    """Take in an image from FILE and put it in force.

    Whose edges were edited is another image, to which no snapshot belongs until `idm capture` takes one; rules
    (`dm golden rule`) leave an image the one that it is.
    """
    try:
        document = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {file}: {error}; name a file written by `dm golden export`")
    try:
        decode(document)
    except GoldenError as error:
        fail(f"{file}: {error}")
    _put_in_force(document, peer)


@golden.command("use")
@click.argument("image")
@manager_option
def golden_use(image: str, peer: Peer) -> None:
    """Put an older IMAGE in force again."""
    request = golden_pb.GetGoldenRequest(id=image)
    reply = _golden(peer, lambda stub: stub.GetGolden(request, timeout=CALL_S))
    _put_in_force(reply.document, peer)


@golden.command("diff")
@click.argument("image")
@click.argument("other", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@manager_option
def golden_diff(image: str, other: str, as_json: bool, peer: Peer) -> None:
    """Show what differs between IMAGE and OTHER, or the live stack, a line each.

    \b
    -  only in IMAGE
    +  only in the other
    ~  in both, but not as the same
    !  in both, and it deviates in the live stack now

    An optional edge that the live stack has not had is no difference. Exit 0 if nothing differs, 1 if anything does, 2
    if that cannot be told.
    """
    request = golden_pb.DiffGoldenRequest(id=image, other=other)
    reply = _golden(peer, lambda stub: stub.DiffGolden(request, timeout=CALL_S), trouble=2)
    if as_json:
        _say_json(reply.differences)
    else:
        for line in reply.lines:
            click.echo(line)
    sys.exit(1 if reply.lines else 0)


@golden.command("schema")
def golden_schema() -> None:
    """Print the JSON Schema of an image."""
    click.echo(schema(), nl=False)


@golden.command("merge")
@click.argument("images", nargs=-1, required=True)
@manager_option
def golden_merge(images: tuple[str, ...], peer: Peer) -> None:
    """Learn one image from all the launches of several IMAGES."""
    request = golden_pb.MergeGoldenRequest(ids=images)
    _say_summary(_golden(peer, lambda stub: stub.MergeGolden(request, timeout=CALL_S)).golden)


@golden.command("rule")
@click.argument("image")
@click.argument("action", type=click.Choice([*_ACTIONS]))
@click.argument("source")
@click.argument("called")
@click.option("--port", type=click.IntRange(0, 65535), help="Only this port (0: the ports that change).")
@click.option("--transport", type=click.Choice(["tcp", "udp"]), help="Only this transport.")
@click.option("--note", default="", help="Why; kept with the rule.")
@manager_option
def golden_rule(
    image: str,
    action: str,
    source: str,
    called: str,
    port: int | None,
    transport: str | None,
    note: str,
    peer: Peer,
) -> None:
    """Say of IMAGE what the edges from SOURCE to CALLED mean (both may hold * and ?).

    pin: they have to be there. tolerate: they are judged, but never count. ignore: they are not judged at all.
    none: take the rule away. Rules stay when the stack is captured anew.
    """
    request = golden_pb.SetGoldenRuleRequest(
        id=image, action=_ACTIONS[action], source=source, target=called, transport=transport or "", note=note
    )
    if port is not None:
        request.port = port
    reply = _golden(peer, lambda stub: stub.SetGoldenRule(request, timeout=CALL_S))
    click.echo("\n".join(reply.rules) or "no rules")
    if action != "none":
        edges = f"{reply.matched} edge{'s' if reply.matched != 1 else ''}"
        warning = ", so nothing is pinned" if action == "pin" and not reply.matched else ""
        click.echo(f"it is about {edges} of image {reply.golden.id}{warning}", err=True)


@golden.command("rm")
@click.argument("image")
@manager_option
def golden_rm(image: str, peer: Peer) -> None:
    """Delete an IMAGE."""
    request = golden_pb.DeleteGoldenRequest(id=image)
    _golden(peer, lambda stub: stub.DeleteGolden(request, timeout=CALL_S))


def _put_in_force(document: str, peer: Peer) -> None:
    request = golden_pb.ImportGoldenRequest(document=document)
    _say_summary(_golden(peer, lambda stub: stub.ImportGolden(request, timeout=CALL_S)).golden)


def _golden(
    peer: Peer,
    call: Callable[["golden_service_pb2_grpc.GoldenServiceAsyncStub"], Awaitable[Answer]],
    *,
    trouble: int = 1,
) -> Answer:
    async def run(channel: grpc.aio.Channel) -> Answer:
        return await call(golden_service_pb2_grpc.GoldenServiceStub(channel))

    return ask(peer, run, trouble=trouble)


def _say_json(messages: Iterable[Message]) -> None:
    documents = [
        MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for one in messages
    ]
    click.echo(json.dumps(documents, indent=2, ensure_ascii=False))


def _say_summary(summary: golden_pb.GoldenSummary) -> None:
    current = "  (in force)" if summary.current else ""
    made = datetime.fromtimestamp(summary.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    launches = f"{summary.runs} launch{'es' if summary.runs != 1 else ''}"
    smoke = "with smoke" if summary.smoke else "no smoke"
    edges = f"{summary.edges} edges ({summary.required} required)"
    click.echo(f"{summary.id}  {summary.stack}  {edges}  {launches}, {smoke}  {made}{current}")
