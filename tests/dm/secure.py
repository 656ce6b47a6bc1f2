"""Managers behind TLS, with the certificates of real authorities."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from dm.manager import Manager
from dm.service.server import serving
from dm.store.sqlite import Store
from dm.tls import Tls
from idm.ca import Authority

HERE = ip_address("127.0.0.1")


def free_port() -> int:
    """A port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def expired(directory: Path, stack: str) -> Authority:
    """An authority whose certificates have ended yesterday; its own has not."""
    return Authority(directory, stack, days=29, clock=lambda: datetime.now(UTC) - timedelta(days=30))


@contextmanager
def accepting() -> Iterator[int]:
    """A port at which something accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@asynccontextmanager
async def secure_manager(folder: Path, tls: Tls) -> AsyncIterator[tuple[Manager, str]]:
    """A manager at ``folder/dm.sock`` and, with TLS, at the address that is returned with it."""
    target = f"127.0.0.1:{free_port()}"
    with Store(folder / "dm.sqlite") as store:
        async with serving(store, f"unix:{folder}/dm.sock", target, tls=tls) as manager:
            judging = asyncio.create_task(manager.run())
            yield manager, target
            judging.cancel()
