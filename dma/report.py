"""What the agent tells the manager: its whole table after every greeting, then only what changed."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dm.v1 import agent_pb2
from dm.v1.agent_service_pb2 import ReportRequest
from dma import wire
from dma.flow import Flow
from dma.observation import Observation
from dma.presence import Presence

CHUNK = 500
"""Edges in one message."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who reports."""

    stack: str
    vcd: str
    version: str
    interval_s: float


class Report:
    """One agent's session: what it has said so far on the stream that is open now, and so what is left to say."""

    def __init__(self, identity: Identity, observation: Observation, *, generation: int = 0) -> None:
        self.identity = identity
        self.generation = generation
        self.session = os.urandom(8).hex()
        self.revision = 0
        """Of the latest message with edges."""
        self.observation = observation
        self._said = 0  # revision of the table
        self._whole = False
        self._presence = Presence()
        self._coverage = agent_pb2.Coverage()

    def hello(self) -> ReportRequest:
        """Greet, and have everything to say again. Raises ``CaptureError``."""
        self.observation.survey()
        capture = self.observation.capture
        self._said, self._whole = 0, False
        self._presence = self.observation.presence
        self._coverage = agent_pb2.Coverage()
        return ReportRequest(
            hello=agent_pb2.Hello(
                stack=self.identity.stack,
                vcd=self.identity.vcd,
                session=self.session,
                generation=self.generation,
                plan=capture.plan,
                loader=capture.loader,
                probes=wire.probes(capture.probes),
                presence=wire.presence(self._presence),
                interval_ms=round(self.identity.interval_s * 1000),
                version=self.identity.version,
            )
        )

    def renew(self, generation: int) -> bool:
        """Go over to a newer generation; False for any other. Raises ``CaptureError``.

        An agent that had none yet keeps what it saw: it was started for the generation that it is told. Any other one
        was taken back together with its machine, and what it saw belongs to another life.
        """
        if generation <= self.generation:
            return False
        if self.generation:
            self.observation.restart()
            self.session, self.revision = os.urandom(8).hex(), 0
        self.generation = generation
        return True

    def urgent(self) -> list[ReportRequest]:
        """Read the counters, and say which edges changed. Raises ``CaptureError``."""
        self.observation.look()
        return list(self._edges())

    def regular(self) -> list[ReportRequest]:
        """Read everything, and say what changed, if only that nothing did. Raises ``CaptureError``."""
        self.observation.survey()
        news = [*self._edges(), *self._surroundings()]
        return news or [ReportRequest(heartbeat=agent_pb2.Heartbeat())]

    def _edges(self) -> Iterator[ReportRequest]:
        table = self.observation.table
        changed = table.changed_since(self._said)
        self._said = table.revision
        if not changed and self._whole:
            return
        for at in range(0, max(1, len(changed)), CHUNK):
            yield self._chunk(changed[at : at + CHUNK], last=at + CHUNK >= len(changed))
        self._whole = True

    def _chunk(self, flows: Sequence[Flow], *, last: bool) -> ReportRequest:
        self.revision += 1
        now_ns = time.monotonic_ns()
        edges = [wire.edge(flow, self.observation.names(flow), now_ns=now_ns) for flow in flows]
        complete = last and not self._whole
        return ReportRequest(
            edges=agent_pb2.Edges(
                generation=self.generation, revision=self.revision, edges=edges, complete=complete
            )
        )

    def _surroundings(self) -> Iterator[ReportRequest]:
        observation = self.observation
        if observation.presence != self._presence:
            self._presence = observation.presence
            yield ReportRequest(presence=wire.presence(self._presence))
        coverage = wire.coverage(observation.losses(), overflow=observation.table.overflow)
        if coverage != self._coverage:
            self._coverage = coverage
            yield ReportRequest(coverage=coverage)
