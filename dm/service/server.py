"""The server: binds the services to an address, and turns the core's errors into statuses."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog

from dm.client import MAX_MESSAGE_BYTES, is_local
from dm.golden import GoldenError
from dm.manager import Manager, UnknownStackError
from dm.operations import OperationError
from dm.service.agents import AgentService
from dm.service.golden import GoldenService
from dm.service.handler import wrapped
from dm.service.identity import RefusedError, Rights
from dm.service.rollbacks import RollbackService
from dm.service.stacks import StackService
from dm.store.sqlite import Store
from dm.tls import Tls, TlsError
from dm.v1 import (
    agent_service_pb2_grpc,
    golden_service_pb2_grpc,
    rollback_service_pb2_grpc,
    stack_service_pb2_grpc,
)
from dm.wire import WireError

GRACE_S = 0.5
UNIX_PATH_LIMIT = 107
MAX_STREAMS = 100
"""Calls at a time on one connection."""

log = structlog.get_logger()

_STATUS = {
    UnknownStackError: grpc.StatusCode.NOT_FOUND,
    GoldenError: grpc.StatusCode.FAILED_PRECONDITION,
    OperationError: grpc.StatusCode.FAILED_PRECONDITION,
    WireError: grpc.StatusCode.INVALID_ARGUMENT,
    RefusedError: grpc.StatusCode.PERMISSION_DENIED,
}


class ServeError(Exception):
    """The server cannot start; the message says why."""


class Errors(grpc.aio.ServerInterceptor):
    """Ends a call with the core's own words when the core refuses it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler; streams from the client keep their kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return wrapped(handler, single=_explained, stream=_explained_stream)


def _explained(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await method(request, context)
        except tuple(_STATUS) as error:
            return await context.abort(_STATUS[type(error)], str(error))

    return call


def _explained_stream(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in method(request, context):
                yield response
        except tuple(_STATUS) as error:
            await context.abort(_STATUS[type(error)], str(error))

    return call


@asynccontextmanager
async def serving(
    store: Store, *listen: str, tls: Tls | None = None, recorders: Sequence[grpc.aio.ServerInterceptor] = ()
) -> AsyncIterator[Manager]:
    """Serve at all these addresses while the block runs. Raises :class:`ServeError` when one cannot be used.

    With ``tls`` every address but a unix socket is served encrypted and to certificates only; without, only addresses
    of this machine are served. New files at the same place are used from the next connection on.
    """
    for address in listen:
        if tls is None and not is_local(address):
            raise ServeError(
                f"{address} can be reached from other machines: use unix:/path/to/dm.sock, 127.0.0.1:PORT, or TLS "
                "(--tls-ca, --tls-cert and --tls-key)"
            )
        _clear_socket(address)
    manager = Manager(store)
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # Its probes would wake every agent once more for every report.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    server = grpc.aio.server(interceptors=[Errors(), Rights(manager), *recorders], options=options)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(manager), server)
    stack_service_pb2_grpc.add_StackServiceServicer_to_server(StackService(manager), server)
    golden_service_pb2_grpc.add_GoldenServiceServicer_to_server(GoldenService(manager), server)
    rollback_service_pb2_grpc.add_RollbackServiceServicer_to_server(RollbackService(manager), server)
    credentials = _credentials(tls) if tls is not None else None
    for address in listen:
        _bind(server, address, credentials)
    await server.start()
    try:
        yield manager
    finally:
        await server.stop(GRACE_S)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        if credentials is None or address.startswith("unix:"):
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ServeError(
            f"cannot listen at {address}: is it an address of this machine, and is another manager there already?"
        ) from error
    _close_to_others(address)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Certificates are read again whenever their files have changed; raises :class:`ServeError` for the first ones."""
    try:
        seen, first = _changed(tls), _configuration(tls)
    except (TlsError, OSError) as error:
        raise ServeError(str(error)) from error

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Asked at each handshake, on a thread of gRPC's; None keeps what is in use."""
        nonlocal seen
        try:
            if (now := _changed(tls)) == seen:
                return None
            seen, renewed = now, _configuration(tls)
        except (TlsError, OSError) as error:
            log.warning("certificates not renewed", reason=str(error))
            return None
        log.info("certificates renewed", certificate=str(tls.certificate))
        return renewed

    # The stubs forget None, which gRPC takes for "no change".
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=True)  # type: ignore[arg-type]


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    material = tls.load(server=True)
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.ca)


def _changed(tls: Tls) -> list[tuple[int, int]]:
    stats = [path.stat() for path in (tls.ca, tls.certificate, tls.key)]
    return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]


async def serve(
    store: Store,
    *listen: str,
    tls: Tls | None,
    metrics: str | None,
    record: Path | None,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; raises :class:`ServeError`."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        _recording(record, store) as recorders,
        serving(store, *listen, tls=tls, recorders=recorders) as manager,
        _metrics(manager, metrics),
    ):
        log.info("listening", at=listen, tls=tls is not None)
        ready()
        judging = asyncio.create_task(manager.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({judging, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if judging.done():
            judging.result()
        judging.cancel()
    log.info("stopped")


@asynccontextmanager
async def _recording(path: Path | None, store: Store) -> AsyncIterator[Sequence[grpc.aio.ServerInterceptor]]:
    """What is said is recorded while the block runs, if it is to be."""
    if path is None:
        yield ()
        return
    # Of use to nobody else.
    from dm.service.recording import RecordingError, recording

    try:
        with recording(path, [kept.image for kept in store.golden() if kept.current]) as recorder:
            yield (recorder,)
    except RecordingError as error:
        raise ServeError(str(error)) from error


@asynccontextmanager
async def _metrics(manager: Manager, address: str | None) -> AsyncIterator[None]:
    """Metrics while the block runs, if there are to be any."""
    if address is None:
        yield
        return
    # Libraries that nobody else needs.
    from dm.exposition import MetricsError, exposed, listening
    from dm.metrics import ManagerCollector

    try:
        at = listening(address)
    except MetricsError as error:
        raise ServeError(str(error)) from error
    async with exposed(at, ManagerCollector(manager)):
        yield


def _close_to_others(listen: str) -> None:
    if listen.startswith("unix:"):
        Path(listen.removeprefix("unix:")).chmod(0o600)


def _clear_socket(listen: str) -> None:
    """Remove the socket of a manager that is dead; refuse when one still answers."""
    if not listen.startswith("unix:"):
        return
    path = Path(listen.removeprefix("unix:"))
    if len(str(path).encode()) > UNIX_PATH_LIMIT:
        raise ServeError(
            f"{path} is longer than the {UNIX_PATH_LIMIT} bytes of a unix socket's name: use a shorter one"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(
            f"cannot use {path.parent}: {error.strerror}; choose another with --listen"
        ) from error
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise ServeError(
                f"a manager listens at {path} already: stop it first, or choose another --listen"
            )
