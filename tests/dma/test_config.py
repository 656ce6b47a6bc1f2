"""An agent that has nothing but a configuration file and certificates, and its manager across a network."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from dm.client import connect
from dm.v1 import flow_pb2, stack_pb2, stack_service_pb2_grpc
from dm.v1 import stack_service_pb2 as stacks
from dma.config import ConfigError, load
from dma.naming.registry.settings import Consul, Etcd, Static
from idm.ca import Authority
from tests.dma.capture.lab import SERVER_V4, Cable, Caller
from tests.idm.until import until

DEADLINE_S = 10.0
BIN = Path(sys.executable).parent
ADDRESS = f"{SERVER_V4}:7443"


def configuration(folder: Path, authority: Authority, *, vcd: str = "web") -> Path:
    """The file that a guest gets, with the certificate of web."""
    tls = authority.vcd("web")
    path = folder / f"{vcd}.toml"
    path.write_text(
        f'dm = "{ADDRESS}"\nstack = "shop"\nvcd = "{vcd}"\ninterval_ms = 200\nreverse_dns = false\n'
        f'[tls]\nca = "{tls.ca}"\ncertificate = "{tls.certificate}"\n'
    )
    return path


@contextmanager
def process(folder: Path, name: str, *command: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A program that says when it is ready; ended in any case. Its log comes with it."""
    log = folder / f"{name}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as out:
        ready.bind(str(folder / f"{name}.ready"))
        ready.settimeout(DEADLINE_S)
        environment = os.environ | {"NOTIFY_SOCKET": str(folder / f"{name}.ready")}
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            assert ready.recv(64) == b"READY=1", log.read_text()
            yield running, log
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(DEADLINE_S)


@contextmanager
def manager(folder: Path, network: Cable, authority: Authority) -> Iterator[str]:
    """A manager in the server's namespace, and its socket on this side."""
    tls = authority.manager([ip_address(SERVER_V4)])
    target = f"unix:{folder}/dm.sock"
    command = ["nsenter", f"--net=/run/netns/{network.server}", str(BIN / "dm"), "serve"]
    command += ["--state", str(folder / "dm.sqlite"), "--listen", target, "--listen", ADDRESS]
    with process(folder, "dm", *command, "--tls-ca", str(tls.ca), "--tls-cert", str(tls.certificate)):
        yield target


async def ports(target: str) -> set[int]:
    """Wait until the manager knows of dependencies of web; their ports."""
    async with asyncio.timeout(DEADLINE_S), connect(target) as channel:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        async for _ in stub.WatchStatus(stacks.WatchStatusRequest(stack="shop")):
            graph = await stub.GetGraph(stacks.GetGraphRequest(stack="shop"))
            if edges := [edge for edge in graph.edges if edge.source == "web"]:
                assert {edge.transport for edge in edges} == {flow_pb2.TRANSPORT_TCP}
                return {edge.port for edge in edges}
    raise AssertionError("the watch ended")


async def apply(target: str) -> None:
    """Declare a stack of two."""
    spec = stack_pb2.StackSpec(
        name="shop",
        fingerprint="f",
        vcds=[stack_pb2.VcdSpec(name="web"), stack_pb2.VcdSpec(name="db")],
        launch="l",
    )
    async with connect(target) as channel:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        await stub.ApplyStack(stacks.ApplyStackRequest(stack=spec), timeout=DEADLINE_S)


@pytest.mark.kernel
def test_a_guest_needs_only_its_file(network: Cable, caller: Caller, tmp_path: Path) -> None:
    """An agent reaches a manager on another address with a file alone, and its own connection is no dependency."""
    authority = Authority(tmp_path / "ca", "shop")
    config = configuration(tmp_path, authority)
    where = ("--netns", str(network.client_netns))
    with manager(tmp_path, network, authority) as target:
        asyncio.run(apply(target))
        with process(tmp_path, "agent", str(BIN / "dma"), "run", "--config", str(config), *where):
            caller(f"call(v4, '{SERVER_V4}', 9)")
            assert asyncio.run(ports(target)) == {9}


@pytest.mark.kernel
def test_another_machines_certificate_is_of_no_use(network: Cable, tmp_path: Path) -> None:
    """An agent that reports for another VCD than its certificate's is refused with the reason, and tries on."""
    authority = Authority(tmp_path / "ca", "shop")
    config = configuration(tmp_path, authority, vcd="db")
    where = ("--netns", str(network.client_netns))
    with manager(tmp_path, network, authority) as target:
        asyncio.run(apply(target))
        with process(tmp_path, "agent", str(BIN / "dma"), "run", "--config", str(config), *where) as agent:
            running, log = agent
            says = "the certificate is of vcd web of shop: it is not for VCD 'db'"
            asyncio.run(until(lambda: says in log.read_text()))
            assert running.poll() is None


def test_the_file_says_what_the_options_would(tmp_path: Path) -> None:
    """Every key stands for one option of ``dma run``."""
    path = tmp_path / "agent.toml"
    path.write_text(
        'dm = "h:1"\nstack = "s"\nvcd = "v"\ninterval_ms = 500\nplan = "cgroup"\nreverse_dns = false\n'
        '[tls]\nca = "/a"\ncertificate = "/b"\nkey = "/c"\n'
        '[consul]\nurl = "http://198.18.0.2:8500"\ntoken_file = "/t"\n'
        '[etcd]\nurls = ["http://198.18.0.2:2379"]\nlayout = "/x/{service}/{ip}:{port}"\n'
        '[registry]\nlocation = "/services.toml"\n'
    )
    assert load(path) == {
        "consul": Consul(url="http://198.18.0.2:8500", token_file="/t"),
        "etcd": Etcd(urls=("http://198.18.0.2:2379",), layout="/x/{service}/{ip}:{port}"),
        "registry": Static(location="/services.toml"),
        "manager": "h:1",
        "stack": "s",
        "vcd": "v",
        "interval_ms": 500,
        "plan": "cgroup",
        "reverse_dns": False,
        "tls_ca": "/a",
        "tls_cert": "/b",
        "tls_key": "/c",
    }
    path.write_text("")
    assert load(path) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dm = ", "is not TOML"),
        ("dn = 'x'", "known are dm, stack, vcd"),
        ("interval_ms = 'soon'", "interval_ms"),
        ("[tls]\nca = '/a'", "certificate"),
        ("[consul]\nurl = 'consul:8500'", "consul.url"),
        ("[etcd]\nurls = []", "etcd.urls"),
        ("[etcd]\nurls = ['http://h']\nlayout = '/x'", "no layout"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    """The line names the file and what to write."""
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as wrong:
        load(path)
    assert str(path) in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--config", "/no/such/file"), "cannot read /no/such/file"),
        (("--dm", "198.18.0.1:1", "--stack", "s", "--vcd", "v", "--tls-ca", "/ca"), "give both --tls-ca"),
        (
            ("--dm", "198.18.0.1:1", "--stack", "s", "--vcd", "v", "--tls-ca", "/ca", "--tls-cert", "/c"),
            "cannot read /ca",
        ),
    ],
)
def test_what_cannot_work_ends_at_once(arguments: tuple[str, ...], says: str) -> None:
    """Missing files are found before anything is attached."""
    done = subprocess.run(
        [BIN / "dma", "run", *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode != 0
    assert says in done.stderr.splitlines()[-1]
