"""The agent's call of its manager: one stream, both ways.

It speaks gRPC by grpclib, which lives in the agent's own event loop. The threads that grpcio brings along wake up ten
times a second and more even while nothing is said, and an agent is in every machine of a stack.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import h2.exceptions
from grpclib.client import Channel, Stream, StreamStreamMethod
from grpclib.config import Configuration
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from dm import peer
from dm.peer import ManagerError, is_local
from dm.tls import Tls, TlsError
from dm.v1 import agent_service_pb2
from dm.v1.agent_service_pb2 import ReportRequest, ReportResponse
from dma.tasks import first_of

METHOD = f"/{agent_service_pb2.DESCRIPTOR.services_by_name['AgentService'].full_name}/Report"
# A manager whose machine is gone is noticed after so long; each ping wakes the agent twice.
PING_S, PONG_S = 30.0, 10.0

# OpenSSL's verdicts on a certificate: its numbers X509_V_ERR_*.
_VERDICTS = {9: peer.NOT_YET, 10: peer.EXPIRED, 62: peer.ANOTHER_ADDRESS, 64: peer.ANOTHER_ADDRESS}


class Call:
    """An open call; either direction fails with an error that :func:`calling` turns into a ``ManagerError``."""

    def __init__(self, stream: Stream[ReportRequest, ReportResponse]) -> None:
        self.answered = False
        """Whether the other side has said anything yet."""
        self._stream = stream

    async def send(self, request: ReportRequest) -> None:
        """Hand a message over to the connection, as soon as it has room."""
        try:
            with _uncounted():
                await self._stream.send_message(request)
        except (ProtocolError, h2.exceptions.ProtocolError) as e:
            raise StreamTerminatedError("the other side has ended the call") from e

    async def receive(self) -> ReportResponse:
        """The next message."""
        with _uncounted():
            response = await self._stream.recv_message()
        if response is None:
            raise StreamTerminatedError("the other side has ended the call")
        self.answered = True
        return response


@contextmanager
def _uncounted() -> Iterator[None]:
    """grpclib wakes whoever waits for a call that has ended by a cancellation, and leaves that counted for ever."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except StreamTerminatedError:
        if task and task.cancelling() > before:
            task.uncancel()
        raise


class Transport:
    """The way to a manager at ``unix:/path`` or ``host:port``; see ``dm.client.connect`` for when ``tls`` is needed.

    What encrypts it is kept from call to call while its files are as they were: to try them out takes longer than all
    the rest of a call, and an agent whose machine was taken back is in a hurry.
    """

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        self.target = target
        self._tls = tls
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        """What encrypts a call now; None where nothing does. Raises :class:`ManagerError`."""
        stamp = self._tls.stamp() if self._tls else ()
        if self._context is None or stamp != self._stamp:
            self._context, self._stamp = transport(self.target, tls=self._tls), stamp
        return self._context

    def doubt(self) -> None:
        """A call did not come about: try the files out before the next one."""
        self._context = None


@asynccontextmanager
async def calling(way: Transport) -> AsyncIterator[Call]:
    """A call of the manager.

    Raises :class:`ManagerError`, also for what fails within the context, in groups as well.
    """
    target, context, call = way.target, way.context(), None
    try:
        async with (
            _channel(target, context) as channel,
            StreamStreamMethod(channel, METHOD, ReportRequest, ReportResponse).open() as stream,
        ):
            call = Call(stream)
            try:
                yield call
            except BaseExceptionGroup as group:
                # Alone, the stream adds to it the status with which the manager ended the call.
                if (ended := group.subgroup(StreamTerminatedError)) is None:
                    raise
                raise first_of(ended) from group
    except StreamTerminatedError as e:
        # A manager that takes no certificate of ours hangs up after the handshake.
        strange = not target.startswith("unix:") and (call is None or not call.answered)
        raise ManagerError((peer.HUNG_UP if strange else peer.ENDED).format(target=target)) from e
    except GRPCError as e:
        raise ManagerError(e.message or f"the call failed with {e.status.name}") from e
    except OSError as e:
        raise ManagerError(_doubt(e).format(target=target)) from e


def transport(target: str, *, tls: Tls | None) -> ssl.SSLContext | None:
    """What encrypts the way to a manager; None where nothing does. Raises :class:`ManagerError`."""
    if not target.startswith("unix:"):
        _endpoint(target)
    if target.startswith("unix:") or (tls is None and is_local(target)):
        return None
    if tls is None:
        raise ManagerError(peer.UNENCRYPTED.format(target=target))
    try:
        return tls.client_context()
    except TlsError as e:
        raise ManagerError(str(e)) from e


def _channel(target: str, context: ssl.SSLContext | None) -> Channel:
    config = Configuration(_keepalive_time=PING_S, _keepalive_timeout=PONG_S, _http2_max_pings_without_data=0)
    if target.startswith("unix:"):
        return Channel(path=target.removeprefix("unix:"), config=config)
    host, port = _endpoint(target)
    return Channel(host, port, ssl=context, config=config)


def _endpoint(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not port.isdecimal() or not host:
        raise ManagerError(f"{target} is no address of a manager: write unix:/path/to/dm.sock or HOST:PORT")
    return host.strip("[]"), int(port)


def _doubt(error: OSError) -> str:
    """What it means that no connection came about."""
    match error:
        case ssl.SSLCertVerificationError():
            return _VERDICTS.get(error.verify_code, peer.ANOTHER_CA)
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return peer.NO_TLS
        case ssl.SSLError() | ConnectionResetError() | BrokenPipeError():
            return peer.HUNG_UP
        case _:
            return peer.NOBODY
