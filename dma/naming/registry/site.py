"""The HTTP API of a registry: every answer has a deadline and a bound, and every failure is a :class:`FeedError`."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import aiohttp

from dma.naming.registry.follower import FeedError
from dma.naming.registry.hostnames import MachineResolver
from dma.naming.registry.settings import Access

ANSWER_LIMIT = 16 << 20
CLOSING_S, CLOSING_LOOK_S = 0.5, 0.001
_CHUNK = 1 << 16
_OK, _NOT_MODIFIED = 200, 304


class Answer(NamedTuple):
    """A whole answer; the names of ``headers`` have no case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Site:
    """One server, or one document, at a URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(
        self,
        path: str = "",
        *,
        within_s: float,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Read a document."""
        with self._explained(within_s):
            async with (
                asyncio.timeout(within_s),
                self._session.get(
                    self._url + path, params=parameters, headers=headers, allow_redirects=False
                ) as response,
            ):
                return Answer(response.status, response.headers, await self._whole(response))

    async def post(
        self, path: str, body: bytes, *, within_s: float, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Call a procedure."""
        with self._explained(within_s):
            async with (
                asyncio.timeout(within_s),
                self._session.post(
                    self._url + path, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return await self._whole(response)

    async def stream(
        self, path: str, body: bytes, *, within_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer that does not end; it begins ``within_s``."""
        with self._explained(within_s):
            async with asyncio.timeout(within_s):
                response = await self._session.post(
                    self._url + path, data=body, headers=headers, allow_redirects=False
                )
            async with response:
                self._expect(response)
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
                    if len(rest) > ANSWER_LIMIT:
                        raise FeedError(
                            f"{self._url} sends a line without an end: look at what answers there"
                        )

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        self._expect(response)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > ANSWER_LIMIT:
                raise FeedError(
                    f"{self._url} answers with more than {ANSWER_LIMIT >> 20} MiB: look at what answers there"
                )
        return bytes(body)

    def _expect(self, response: aiohttp.ClientResponse) -> None:
        if response.status not in (_OK, _NOT_MODIFIED):
            raise FeedError(
                f"{self._url} answers {response.status} for {response.url.path}: look at its address and our rights"
            )

    @contextmanager
    def _explained(self, within_s: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as e:
            raise FeedError(
                f"{self._url} has not answered within {within_s:g} s: look at it and the way to it"
            ) from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise FeedError(f"{self._url} cannot be used: {_words(e)}: look at it and the way to it") from e


@asynccontextmanager
async def open_site(
    url: str, access: Access, root: Path, *, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Site]:
    """Connections to a server, opened as they are needed; certificates are read anew each time.

    A host name is what it is on the machine whose root directory is given.
    """
    sockets = _Sockets()
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=_trust(access),
        resolver=MachineResolver(root),
        use_dns_cache=False,
        socket_factory=sockets.open,
    )
    own = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            headers=own,
            timeout=aiohttp.ClientTimeout(total=None),  # each call has its own
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield Site(session, url.rstrip("/"))
    finally:
        # A server that is out of reach says no farewell.
        await connector.close(abort_ssl=True)
        await sockets.close()


class _Sockets:
    """Those of one connector: asyncio forgets one whose opening is cancelled just before its TLS handshake begins."""

    def __init__(self) -> None:
        self._opened: WeakSet[socket.socket] = WeakSet()

    def open(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """See ``aiohttp.TCPConnector``."""
        family, kind, protocol, _, _ = info
        opened = socket.socket(family, kind, protocol)
        self._opened.add(opened)
        return opened

    async def close(self) -> None:
        """Wait until those that are being closed are, and end the forgotten ones."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while left := [each for each in self._opened if each.fileno() >= 0]:
                    for forgotten in left:
                        with suppress(OSError):  # it was never connected
                            forgotten.shutdown(socket.SHUT_RDWR)
                    await asyncio.sleep(CLOSING_LOOK_S)  # transports tell nobody but their protocols


def read_secret(path: str) -> str:
    """What a file holds that is for the agent's eyes alone; nothing where no file is named."""
    try:
        return Path(path).read_text("utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError) as e:
        raise FeedError(f"cannot read {path}: {_words(e)}: check the path and the rights") from e


def _trust(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key)
    except OSError as e:  # ssl.SSLError is one
        raise FeedError(f"the registry's certificates cannot be used: {_words(e)}: check their paths") from e
    return context


def _words(error: Exception) -> str:
    """One line of what it says."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.splitlines() or [type(error).__name__])[0].lower()
