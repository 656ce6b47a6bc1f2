"""The deployer of a stack that is up: attends to it until it is told to end."""

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import structlog

from dm.v1.rollback_service_pb2 import Rollback
from idm.deployment import DEPLOYS, deploying
from idm.errors import DeployError
from idm.journal import Journal
from idm.lock import lock
from idm.process import Process, log_tail, spawn
from idm.progress import describe
from idm.stack import Stack

READY_S = 30.0
LOOK_S = 0.2

_log = structlog.get_logger()


async def watch(stack: Stack) -> None:
    """Attend to the stack until SIGTERM or SIGINT. Raises :class:`DeployError` or ``DriverError`` when it cannot."""
    stack.home.create()
    with lock(stack.home.deployer_lock, purpose=DEPLOYS), Journal(stack.home.journal) as journal:
        async with deploying(stack, journal, on_rollback=_log_rollback) as deployment:
            await asyncio.to_thread(stack.driver.check)
            ending = end_on_signal()
            await deployment.start_manager()
            await deployment.apply()
            await deployment.start_agents()
            deployment.attend()
            say_ready()
            _log.info("watching", stack=stack.name, vcds=len(stack.vcds))
            await ending.wait()
            await deployment.finish()


def hand_over(run: Path, *, manifest: Path, config: Path | None) -> int:
    """Start a detached watch and wait until it is ready; returns its pid. Raises :class:`DeployError`."""
    command = [sys.executable, "-P", "-m", "idm", "--file", str(manifest.absolute())]
    command += ["--config", str(config.absolute())] if config is not None else []
    path = run / "watch.ready"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(LOOK_S)
        with spawn(run, "watch", [*command, "watch"], notify=path) as process:
            try:
                _hear_ready(notify, process)
            except DeployError as e:
                process.end(grace_s=1.0)
                raise DeployError(f"{e}: {log_tail(run, 'watch')} (see {run}/watch.log)") from e
            finally:
                path.unlink()
            return process.pid


def say_ready() -> None:
    """Tell who started this process that it is ready, when that one wants to know (sd_notify)."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, suppress(OSError):
            notify.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)


def end_on_signal() -> asyncio.Event:
    """An event that is set by SIGTERM and SIGINT, which do nothing else from now on."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    return ending


def _hear_ready(notify: socket.socket, process: Process) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and not process.ended():
        with suppress(TimeoutError):
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return
    raise DeployError("the watch does not get ready")


def _log_rollback(rollback: Rollback) -> None:
    _log.info("rollback", operation=rollback.operation, state=describe(rollback))
