"""The agent's call, against managers that let it in and managers that do not."""

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import grpc.aio
import pytest

from dm.peer import ManagerError
from dm.tls import Tls
from dm.v1.agent_pb2 import Hello
from dm.v1.agent_service_pb2 import ReportRequest
from dma.call import Call, Transport, calling
from idm.ca import Authority
from tests.dm.secure import HERE, expired, free_port, secure_manager
from tests.dma.recorder import Recorder, served

DEADLINE_S = 10.0
ELSEWHERE = ip_address("127.0.0.9")
HELLO = ReportRequest(hello=Hello(stack="shop", vcd="web"))


async def problem(target: str, tls: Tls | None = None) -> str:
    """What an agent is told; empty when it is answered."""
    try:
        async with asyncio.timeout(DEADLINE_S), calling(Transport(target, tls)) as call:
            await call.send(HELLO)
            await call.receive()
    except ManagerError as error:
        return str(error)
    return ""


def test_strangers_are_told_why_they_stay_outside(tmp_path: Path) -> None:
    """No certificate, one of another CA, and a manager of another CA or at another address: each has its own line."""
    ours, theirs = Authority(tmp_path / "ours", "shop"), Authority(tmp_path / "theirs", "shop")

    async def story() -> None:
        async with secure_manager(tmp_path, ours.manager([HERE])) as (_, target):
            assert "no stack 'shop'" in await problem(target, ours.vcd("web"))
            assert "hung up: it wants TLS" in await problem(target)
            assert "has a certificate of another CA" in await problem(target, theirs.vcd("web"))
            both = tmp_path / "both.pem"
            both.write_bytes(ours.vcd("web").ca.read_bytes() + theirs.vcd("web").ca.read_bytes())
            stranger = theirs.vcd("web").certificate
            forged = Tls(ca=both, certificate=stranger, key=stranger)
            assert "hung up" in await problem(target, forged)

    asyncio.run(story())
    (tmp_path / "dm.sock").unlink(missing_ok=True)

    async def elsewhere() -> None:
        async with secure_manager(tmp_path, ours.manager([ELSEWHERE])) as (_, target):
            assert "is not for this address" in await problem(target, ours.vcd("web"))

    asyncio.run(elsewhere())


def test_what_cannot_work_is_refused_before_a_packet_is_sent(tmp_path: Path) -> None:
    """No certificates for another machine, an expired one, and what is no address."""
    old = expired(tmp_path / "ca", "shop").vcd("web")
    assert "is not on this machine" in asyncio.run(problem("198.18.0.1:7443"))
    assert "has expired: renew it" in asyncio.run(problem("127.0.0.1:1", old))
    assert "is no address of a manager" in asyncio.run(problem("somewhere"))


def test_nobody_and_somebody_else(tmp_path: Path) -> None:
    """A port or a path where nobody listens, and one where something answers without TLS, are told apart."""
    tls = Authority(tmp_path / "ca", "shop").vcd("web")

    async def story() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        assert "speaks no TLS" in await problem(f"127.0.0.1:{port}", tls)
        await server.stop(None)
        assert "no manager answers" in await problem(f"127.0.0.1:{free_port()}", tls)
        assert "no manager answers" in await problem(f"unix:{tmp_path}/nobody")

    asyncio.run(story())


def test_an_end_within_a_group_is_explained(tmp_path: Path) -> None:
    """A manager that goes away is one plain error, however deep in task groups it was noticed."""

    async def listen(call: Call) -> None:
        while True:
            await call.receive()

    async def be_left(manager: AsyncExitStack, target: str) -> None:
        async with (
            asyncio.timeout(DEADLINE_S),
            calling(Transport(target)) as call,
            asyncio.TaskGroup() as tasks,
        ):
            await call.send(HELLO)
            await call.receive()
            tasks.create_task(listen(call))
            await manager.aclose()
            await asyncio.Event().wait()

    async def story() -> None:
        async with AsyncExitStack() as manager:
            target = await manager.enter_async_context(served(Recorder(), tmp_path / "dm.sock"))
            with pytest.raises(ManagerError, match="ended the stream"):
                await be_left(manager, target)

    asyncio.run(story())


def test_files_are_tried_out_once_while_they_stay(tmp_path: Path) -> None:
    """What encrypts a call serves the next one, until a file is replaced, or a call did not come about."""
    authority = Authority(tmp_path / "ca", "shop")
    tls = authority.vcd("web")
    way = Transport("198.18.0.1:7443", tls)
    first = way.context()
    assert way.context() is first
    renewed = tls.certificate.with_suffix(".new")
    renewed.write_bytes(tls.certificate.read_bytes())
    renewed.chmod(0o600)
    renewed.replace(tls.certificate)
    second = way.context()
    assert second is not first
    way.doubt()
    assert way.context() is not second
    tls.certificate.unlink()
    with pytest.raises(ManagerError, match="cannot read"):
        way.context()
