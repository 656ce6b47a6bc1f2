"""Certificates on real sockets: what is accepted, what is refused, and what a person is told."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc.aio
import pytest

from dm.client import ManagerError, Tls, connect, explain
from dm.service.server import ServeError
from dm.v1 import stack_service_pb2 as stacks
from dm.v1 import stack_service_pb2_grpc
from idm.ca import Authority
from tests.dm.secure import HERE, accepting, expired, free_port, secure_manager

DEADLINE_S = 10.0
ELSEWHERE = ip_address("127.0.0.9")


async def problem(target: str, tls: Tls | None) -> str:
    """What a caller is told; empty when it is served."""
    try:
        async with connect(target, tls=tls) as channel:
            stub = stack_service_pb2_grpc.StackServiceStub(channel)
            await stub.ListStacks(stacks.ListStacksRequest(), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return one_line(explain(error, target=target))
    except ManagerError as error:
        return one_line(error)
    return ""


def one_line(error: ManagerError) -> str:
    """Its message, which is never more."""
    assert "\n" not in str(error)
    return str(error)


def test_both_doors_are_open_at_once(tmp_path: Path) -> None:
    """One manager serves the unix socket without, and an address with certificates."""
    authority = Authority(tmp_path / "ca", "shop")

    async def story() -> None:
        async with secure_manager(tmp_path, authority.manager([HERE])) as (_, target):
            assert await problem(target, authority.operator()) == ""
            assert await problem(f"unix:{tmp_path}/dm.sock", None) == ""
            assert (tmp_path / "dm.sock").stat().st_mode & 0o777 == 0o600

    asyncio.run(story())


def test_strangers_are_told_why_they_stay_outside(tmp_path: Path) -> None:
    """No certificate, one of another CA, and a manager of another CA or at another address: each has its own line."""
    ours, theirs = Authority(tmp_path / "ours", "shop"), Authority(tmp_path / "theirs", "shop")

    async def story() -> None:
        async with secure_manager(tmp_path, ours.manager([HERE])) as (_, target):
            assert "hung up: it wants TLS" in await problem(target, None)
            assert "has a certificate of another CA" in await problem(target, theirs.operator())
            # One that has our CA's certificate, which is no secret, but none that our CA signed.
            forged = Tls(
                ca=bundle(tmp_path, ours.operator(), theirs.operator()),
                certificate=theirs.operator().certificate,
                key=theirs.operator().key,
            )
            assert "hung up" in await problem(target, forged)
            assert await problem(target, ours.operator()) == ""

    asyncio.run(story())
    (tmp_path / "dm.sock").unlink(missing_ok=True)

    async def elsewhere() -> None:
        async with secure_manager(tmp_path, ours.manager([ELSEWHERE])) as (_, target):
            assert "is not for this address" in await problem(target, ours.operator())

    asyncio.run(elsewhere())


def bundle(folder: Path, *members: Tls) -> Path:
    """Several CAs in one file."""
    path = folder / "bundle.pem"
    path.write_bytes(b"".join(member.ca.read_bytes() for member in members))
    return path


def test_an_expired_certificate_opens_nothing(tmp_path: Path) -> None:
    """A client sees that its own has expired before it calls; a manager hangs up on one that calls all the same."""
    authority = Authority(tmp_path / "ca", "shop")
    old = expired(tmp_path / "ca", "shop").vcd("web")
    assert "has expired: renew it" in asyncio.run(problem("127.0.0.1:1", old))

    async def story() -> None:
        manager = authority.manager([HERE])
        async with secure_manager(tmp_path, manager) as (_, target):
            pem = old.certificate.read_bytes()
            credentials = grpc.ssl_channel_credentials(old.ca.read_bytes(), pem, pem)
            async with grpc.aio.secure_channel(target, credentials) as channel:
                stub = stack_service_pb2_grpc.StackServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.ListStacks(stacks.ListStacksRequest(), timeout=DEADLINE_S)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(story())


def test_a_manager_whose_certificate_expires_is_named(tmp_path: Path) -> None:
    """A manager does not start with an expired certificate, nor with one that is not a manager's."""
    old = expired(tmp_path / "ca", "shop").manager([HERE])

    async def story(tls: Tls) -> None:
        async with secure_manager(tmp_path, tls):
            raise AssertionError("it was served")

    with pytest.raises(ServeError, match="has expired: renew it"):
        asyncio.run(story(old))
    with pytest.raises(ServeError, match="is not meant for a server"):
        asyncio.run(story(Authority(tmp_path / "ca", "shop").operator()))


def test_plain_and_encrypted_do_not_mix(tmp_path: Path) -> None:
    """TLS to a plaintext port and plaintext to a TLS port fail with a line that says which of the two it is."""
    authority = Authority(tmp_path / "ca", "shop")

    async def story() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        assert "speaks no TLS" in await problem(f"127.0.0.1:{port}", authority.operator())
        await server.stop(None)
        async with secure_manager(tmp_path, authority.manager([HERE])) as (_, target):
            assert "it wants TLS" in await problem(target, None)
        assert "no manager answers" in await problem(f"127.0.0.1:{free_port()}", authority.operator())

    asyncio.run(story())


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """New files at the same place are shown at the next handshake; broken ones are not, and the old stay in use."""
    authority = Authority(tmp_path / "ca", "shop")
    tls = authority.manager([ELSEWHERE])

    async def story() -> None:
        async with secure_manager(tmp_path, tls) as (_, target):
            assert "is not for this address" in await problem(target, authority.operator())
            assert authority.manager([HERE]) == tls
            assert await problem(target, authority.operator()) == ""
            tls.certificate.write_bytes(b"cut short")
            assert await problem(target, authority.operator()) == ""

    asyncio.run(story())


def test_nothing_leaves_this_machine_unencrypted() -> None:
    """An address of another machine without certificates is refused before a packet is sent."""
    assert asyncio.run(problem("198.18.0.1:7443", None)).startswith("198.18.0.1:7443 is not on this machine")


@pytest.fixture
def files(tmp_path: Path) -> Tls:
    """An operator's files that can be spoilt, certificate and key apart."""
    issued = Authority(tmp_path / "ca", "shop").operator()
    for name in ("ca.pem", "operator.pem", "operator.key"):
        source = issued.ca if name == "ca.pem" else issued.certificate
        shutil.copy(source, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    return Tls(ca=tmp_path / "ca.pem", certificate=tmp_path / "operator.pem", key=tmp_path / "operator.key")


def test_good_files_pass(files: Tls) -> None:
    """Certificate and key may be two files."""
    assert files.load().certificate.startswith(b"-----BEGIN CERTIFICATE-----")


def test_what_is_wrong_with_files_is_one_line(files: Tls, tmp_path: Path) -> None:
    """Each fault of the files names the file and what to do about it."""
    other = Authority(tmp_path / "other", "shop").operator()
    early = Authority(tmp_path / "ca", "shop", clock=lambda: datetime.now(UTC) + timedelta(days=3)).vcd("web")

    def told(**changes: Path) -> str:
        chosen = {"ca": files.ca, "certificate": files.certificate, "key": files.key} | changes
        return asyncio.run(problem("198.18.0.1:1", Tls(**chosen)))

    missing, garbage = tmp_path / "missing", tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    garbage.chmod(0o600)
    for name in ("ca", "certificate", "key"):
        assert told(**{name: missing}) == f"cannot read {missing}: No such file or directory; check the path"
    assert told(ca=garbage) == f"{garbage} holds no certificate in PEM form: name the stack's ca.pem"
    assert "is not in PEM form" in told(certificate=garbage)
    assert "is not in PEM form" in told(key=garbage)
    assert f"is not that of {files.certificate}" in told(key=other.key)
    assert (
        told(ca=other.ca) == f"{files.certificate} is not of the CA in {other.ca}: name the CA that signed it"
    )
    assert "is not valid yet: set this machine's clock" in told(certificate=early.certificate, key=early.key)
    files.key.chmod(0o640)
    assert told() == f"the key {files.key} can be read by others: `chmod 600 {files.key}`"


def dm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``dm`` to its end."""
    command = [sys.executable, "-m", "dm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def options(tls: Tls) -> list[str]:
    """The certificates on a command line."""
    return ["--tls-ca", str(tls.ca), "--tls-cert", str(tls.certificate)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A manager in a process of its own, by its command line; its TLS address."""
    manager = Authority(tmp_path / "ca", "shop").manager([HERE])
    target = f"127.0.0.1:{free_port()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(tmp_path / "ready"))
        ready.settimeout(DEADLINE_S)
        command = [sys.executable, "-m", "dm", "serve", "--state", str(tmp_path / "dm.sqlite")]
        command += ["--listen", f"unix:{tmp_path}/dm.sock", "--listen", target, *options(manager)]
        with (tmp_path / "dm.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "ready")}, stderr=log
            )
        try:
            assert ready.recv(64) == b"READY=1"
            yield target
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0


def test_the_command_line_reaches_a_manager_elsewhere(served: str, tmp_path: Path) -> None:
    """With an operator's certificate `dm` works over TLS as on the socket; without one it is a single line."""
    operator = Authority(tmp_path / "ca", "shop").operator()
    assert dm("status", "--dm", served, *options(operator)).stdout == "no stack is deployed\n"
    assert dm("status", "--dm", f"unix:{tmp_path}/dm.sock").stdout == "no stack is deployed\n"
    for wrong, says in (
        ([], "it wants TLS"),
        (options(Authority(tmp_path / "other", "shop").operator()), "of another CA"),
        (options(Authority(tmp_path / "ca", "shop").vcd("web")), "vcd web of shop may not call ListStacks"),
    ):
        failed = dm("status", "--dm", served, *wrong)
        assert failed.returncode == 1
        assert says in failed.stderr
        assert len(failed.stderr.splitlines()) == 1, failed.stderr
    half = dm("status", "--dm", served, "--tls-ca", str(operator.ca))
    assert half.returncode == 2
    assert "give both --tls-ca and --tls-cert" in half.stderr


def test_strangers_write_nothing_into_the_log(served: str, tmp_path: Path) -> None:
    """A hundred bad handshakes leave no line: the disk of a manager is nobody's to fill."""
    before = (tmp_path / "dm.log").read_bytes()
    host, port = served.split(":")
    for _ in range(100):
        with socket.create_connection((host, int(port)), DEADLINE_S) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while stranger.recv(4096):
                pass
    assert (tmp_path / "dm.log").read_bytes() == before


def test_a_silent_peer_is_left_after_a_deadline(tmp_path: Path) -> None:
    """Something that accepts connections and never answers costs the caller its deadline and no more."""
    authority = Authority(tmp_path / "ca", "shop")

    async def story(port: int) -> None:
        async with connect(f"127.0.0.1:{port}", tls=authority.operator()) as channel:
            stub = stack_service_pb2_grpc.StackServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.ListStacks(stacks.ListStacksRequest(), timeout=0.5)
        assert "did not answer in time" in str(explain(late.value, target="t"))

    with accepting() as port:
        asyncio.run(story(port))
