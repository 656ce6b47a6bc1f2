"""Metrics by HTTP in Prometheus' text format, for the manager and the agents alike.

Its libraries take 15 MB: import this only where metrics are asked for.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

GRACE_S = 1.0


class MetricsError(Exception):
    """Nobody can be served at an address; the message is one line that says what to do."""


def listening(address: str) -> socket.socket:
    """A socket at ``ADDRESS:PORT`` in the current network namespace; raises :class:`MetricsError`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except (OSError, OverflowError, ValueError) as e:
        reason = e.strerror.lower() if isinstance(e, OSError) and e.strerror else str(e)
        raise MetricsError(
            f"metrics cannot be served at {address} ({reason}): give a free ADDRESS:PORT such as 127.0.0.1:9464"
        ) from e


@asynccontextmanager
async def exposed(at: socket.socket, collector: Collector) -> AsyncIterator[None]:
    """Answer ``GET /metrics`` with what the collector says at that moment, and with what this process takes."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        await web.SockSite(runner, at).start()
        yield
    finally:
        await runner.cleanup()
