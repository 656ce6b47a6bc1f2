"""How a command line asks the manager: one call, and every failure one line."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import click
import grpc

from dm.client import ManagerError, connect, explain
from dm.options import Peer

CALL_S = 10.0
RUN = Path("/run/stackmend")

Answer = TypeVar("Answer")


def ask(peer: Peer, call: Callable[[grpc.aio.Channel], Awaitable[Answer]], *, trouble: int = 1) -> Answer:
    """Run one call; a failure is printed, and ends the program with the status ``trouble``."""

    async def run() -> Answer:
        async with _reached(peer) as channel:
            return await call(channel)

    try:
        return asyncio.run(run())
    except ManagerError as error:
        fail(str(error), status=trouble)
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


def fail(message: str, *, status: int = 1) -> NoReturn:
    """Print an error and end the program."""
    click.echo(f"dm: {message}", err=True)
    sys.exit(status)
