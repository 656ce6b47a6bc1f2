"""Connections to a registry."""

import asyncio
import gc
import ssl
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from dm.tls import Tls
from dma.naming.background import Background
from dma.naming.registry.settings import Access
from dma.naming.registry.site import open_site
from idm.ca import Authority

MOMENTS, READY_S = 100, 5.0


@contextmanager
def silent_server(tls: Tls) -> Iterator[str]:
    """Shakes hands with everybody, and then says nothing; its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.key)
    port: Future[int] = Future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()

    async def serve() -> NoReturn:
        async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as server:
            port.set_result(server.sockets[0].getsockname()[1])
            await server.serve_forever()
        raise AssertionError("nobody closes it but a cancellation")

    thread = Background(serve(), name="silent server")
    try:
        yield f"https://127.0.0.1:{port.result(READY_S)}"
    finally:
        thread.close()


def test_a_connection_is_closed_whenever_it_is_given_up(tmp_path: Path) -> None:
    """At whichever step of its opening, its TLS handshake or its use: none is left to the garbage collector."""
    authority = Authority(tmp_path / "ca", "shop")
    own, access = authority.manager([ip_address("127.0.0.1")]), Access(ca=str(authority.vcd("web").ca))

    async def ask(url: str) -> None:
        async with open_site(url, access, Path("/")) as site:
            await site.get(within_s=READY_S)

    async def give_up(url: str, turns: int) -> None:
        asking = asyncio.create_task(ask(url))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait((asking,))

    with silent_server(own) as url, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        for turns in range(MOMENTS):
            asyncio.run(give_up(url, turns))
            gc.collect()
    assert [str(each.message) for each in left] == []
