"""The stream to the manager: greets, reports and listens, and comes back after every break."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NoReturn

from dm import peer
from dm.peer import ManagerError
from dm.tls import Tls
from dm.v1 import agent_pb2
from dm.v1.agent_service_pb2 import ReportRequest, ReportResponse
from dma.call import Call, Transport, calling
from dma.clock import clock_watched
from dma.logs import log
from dma.netlink import NetlinkError
from dma.reconnect import destroy_connections
from dma.report import Report
from dma.tasks import first_of, heed_cancellation
from dma.urgency import Urgency

PEER_TIMEOUT_S = 10.0
"""A manager that takes longer to answer a greeting, or to take in a message, is left and called anew."""
FIRST_DELAY_S, LAST_DELAY_S = 0.2, 2.0
IDLE_INTERVALS = 2
"""Who has nothing to say says so only that often; what is urgent wakes it at any time."""


class Reporter:
    """Keeps a stream open to the manager at ``target``, whatever happens to either of them."""

    def __init__(self, report: Report, urgency: Urgency, *, target: str, tls: Tls | None = None) -> None:
        self.greeted = asyncio.Event()
        """Set when the first Hello has been sent."""
        self._report = report
        self._urgency = urgency
        self._way = Transport(target, tls)
        self._stream: _Stream | None = None

    @property
    def connected(self) -> bool:
        """Whether the manager has welcomed the agent on the stream that is open now."""
        return self._stream is not None and self._stream.welcomed

    async def run(self) -> NoReturn:
        """Report until cancelled; raises ``CaptureError``, alone or in a group, when the capture fails."""
        complaint, delays = "", self._delays()
        with clock_watched(self.doubt):
            while True:
                stream = _Stream(self._report, self._urgency, self._way, greeted=self.greeted)
                self._stream = stream
                try:
                    await stream.run()
                except* ManagerError as group:
                    if stream.welcomed or str(first_of(group)) != complaint:
                        complaint = str(first_of(group))
                        log.warning("manager lost", target=self._way.target, reason=complaint)
                self._stream = None
                heed_cancellation()
                if stream.welcomed:
                    delays = self._delays()
                else:
                    self._way.doubt()
                await asyncio.sleep(next(delays))

    def doubt(self) -> None:
        """This may be another life of the machine, in which the stream is dead: say something now, to find out."""
        if self._stream is not None:
            self._stream.doubt()

    def _delays(self) -> Iterator[float]:
        """Growing, but never longer than an interval, within which a manager that returns is to know everything."""
        delay_s = FIRST_DELAY_S
        while True:
            delay_s = min(delay_s, LAST_DELAY_S, self._report.identity.interval_s)
            yield delay_s * random.uniform(0.5, 1.0)
            delay_s *= 2


class _Stream:
    """One call of the manager."""

    def __init__(self, report: Report, urgency: Urgency, way: Transport, *, greeted: asyncio.Event) -> None:
        self.welcomed = False
        self._report = report
        self._urgency = urgency
        self._way = way
        self._greeted = greeted
        self._greeting_due = True
        self._doubted = False

    def doubt(self) -> None:
        """Say something at once, though nothing may be new."""
        self._doubted = True
        self._urgency.alert()

    async def run(self) -> NoReturn:
        """Speak and listen until either fails with :class:`ManagerError`."""
        async with calling(self._way) as call:
            try:
                await self._greet(call)
                async with asyncio.timeout(PEER_TIMEOUT_S):
                    self._take(await call.receive())
                log.info("connected", target=self._way.target, generation=self._report.generation)
                self.welcomed = True
                # Python 3.11 counts a task as cancelled for ever when a child of its group fails while only children
                # are waited for; the group's own body is the speaker, so that this cannot be.
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(call))
                    await self._speak(call)
            except TimeoutError as e:
                raise ManagerError(peer.LATE.format(target=self._way.target)) from e

    async def _greet(self, call: Call) -> None:
        self._greeting_due = False
        await self._write(call, [self._report.hello()])
        self._greeted.set()

    async def _listen(self, call: Call) -> NoReturn:
        while True:
            self._take(await call.receive())

    async def _speak(self, call: Call) -> NoReturn:
        """The whole table at once, then what is urgent soon and the rest each interval."""
        loop, interval_s = asyncio.get_running_loop(), self._report.identity.interval_s
        tick_s, urgent = loop.time() + interval_s, True
        while True:
            if self._greeting_due:
                await self._greet(call)
            urgent = urgent and not self._doubted
            self._doubted = False
            said = self._report.urgent() if urgent else self._report.regular()
            await self._write(call, said)
            if urgent:
                tick_s = min(tick_s, loop.time() + interval_s)
            else:
                intervals = IDLE_INTERVALS if said[0].HasField("heartbeat") else 1
                # What was said before its time moves the next one forward, too.
                tick_s = max(min(tick_s, loop.time()) + intervals * interval_s, loop.time())
            urgent = await self._urgency.wait(tick_s)

    def _take(self, response: ReportResponse) -> None:
        match response.WhichOneof("item"):
            case "welcome":
                if self._report.renew(response.welcome.generation):
                    log.info("generation changed", generation=self._report.generation)
                    self._greeting_due = True
                    self._urgency.alert()
            case "reconnect":
                _reconnect(response.reconnect)
            case _:  # an acknowledgement: after a break everything is sent again anyway
                pass

    async def _write(self, call: Call, requests: Sequence[ReportRequest]) -> None:
        try:
            for request in requests:
                async with asyncio.timeout(PEER_TIMEOUT_S):
                    await call.send(request)
        except TimeoutError as e:
            raise ManagerError(f"the manager at {self._way.target} takes nothing in: see its log") from e


def _reconnect(request: agent_pb2.Reconnect) -> None:
    try:
        count = destroy_connections({ip_address(packed) for packed in request.addresses})
    except (NetlinkError, ValueError) as e:
        log.warning("connections not destroyed", reason=str(e))
    else:
        log.info("connections destroyed", count=count)
