"""Metrics by HTTP in Prometheus' text format, for the manager and the agents alike.

It is imported only where metrics are asked for. aiohttp's server is not used: it takes 9 MB of an agent's 60.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

READERS = 8
READER_S = 5.0


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
    readers = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal readers
        readers += 1
        try:
            if readers <= READERS:
                async with asyncio.timeout(READER_S):
                    writer.write(_answer(registry, await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks like this gets no answer
        finally:
            readers -= 1
            writer.close()

    server = await asyncio.start_server(serve, sock=at)
    try:
        yield
    finally:
        server.close()


def _answer(registry: CollectorRegistry, request: bytes) -> bytes:
    if request.split(b" ", 2)[:2] == [b"GET", b"/metrics"]:
        return _response("200 OK", CONTENT_TYPE_LATEST, generate_latest(registry))
    return _response("404 Not Found", "text/plain", b"GET /metrics is all there is\n")


def _response(status: str, kind: str, body: bytes) -> bytes:
    """One answer; the connection ends with it."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
