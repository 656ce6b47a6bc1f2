"""Real agents name what real applications call, as a real name server answers them."""

import ast
import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from dm.v1 import flow_pb2, stack_pb2
from dm.v1 import golden_service_pb2 as golden
from dm.v1 import stack_service_pb2 as stacks
from dm.v1.agent_service_pb2 import ReportRequest
from tests.dm.peer import Peer, manager
from tests.dma.capture.lab import SERVER_V4, Cable, Caller, cable
from tests.dma.recorder import Recorder, served
from tests.dma.test_run import agent
from tests.lab.dnsmasq import NameServer, name_server
from tests.lab.namespace import Namespace

pytestmark = pytest.mark.kernel

DEADLINE_S = 15.0
SERVICES = 100
PORT = 7000
ONE_LAUNCH, ANOTHER = "198.18.64", "198.18.65"
RESOLVER = 253


@pytest.fixture
def network() -> Iterator[Cable]:
    """A client's namespace, and a server's that answers at every address of two networks."""
    with cable(f"names{os.getpid()}") as made:
        for prefix in (ONE_LAUNCH, ANOTHER):
            made.in_server("ip", "addr", "add", f"{prefix}.{RESOLVER}/32", "dev", "lo")
            made.in_server("ip", "route", "add", "local", f"{prefix}.0/24", "dev", "lo")
            made.in_client("ip", "route", "add", f"{prefix}.0/24", "via", SERVER_V4)
        yield made


class Site:
    """A client's machine in one launch: its root directory, its application, and the name server that it asks."""

    def __init__(self, root: Path, application: Caller, server: NameServer) -> None:
        self.root = root
        self.application = application
        self.server = server

    async def call(self, name: str, *, keep: bool = False) -> float:
        """Resolve a name and call all its addresses; returns when the first call began."""
        connect = f"start(('{name}', host), v4, host, {PORT})" if keep else f"call(v4, host, {PORT})"
        step = f"(x['t'](), [{connect} for host in resolve('{name}')])"
        begin_s, errors = ast.literal_eval(await asyncio.to_thread(self.application, step))
        assert errors
        assert keep or not any(errors)
        return float(begin_s)


@contextmanager
def accepting(listener: socket.socket) -> Iterator[None]:
    """Answer every call, and keep it open."""
    taken: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # shut down
            while True:
                taken.append(listener.accept()[0])

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (listener, *taken):
            one.close()


@contextmanager
def launched(network: Cable, directory: Path, prefix: str, hosts: str, *, ttl_s: int = 60) -> Iterator[Site]:
    """One launch, whose name server knows these hosts."""
    root, resolver = directory / prefix, f"{prefix}.{RESOLVER}"
    (root / "etc").mkdir(parents=True)
    resolv_conf = root / "etc" / "resolv.conf"
    resolv_conf.write_text(f"nameserver {resolver}\noptions timeout:1 attempts:2\n")
    with ExitStack() as stack:
        inside = Namespace(network.server)
        alias = "--cname=pay.shop,edge.cdn.example"
        server = stack.enter_context(
            name_server(inside, resolver, directory, alias, hosts=hosts, ttl_s=ttl_s)
        )
        stack.enter_context(accepting(network.server_socket(socket.SOCK_STREAM, PORT)))
        application = stack.enter_context(Caller(network.client, resolv_conf=resolv_conf))
        application("x.update(t=__import__('time').monotonic)")
        yield Site(root, application, server)


@asynccontextmanager
async def watched(network: Cable, site: Site, target: str) -> AsyncIterator[None]:
    """An agent of the client's machine that has attached and greeted."""
    where = ("--netns", str(network.client_netns), "--root", str(site.root))
    with agent(site.root, "--dm", target, *where, "--no-reverse-dns") as running:
        assert await asyncio.to_thread(running.told) == "READY=1"
        yield


class Stopwatch(Recorder):
    """A manager that notes when it was first told of an edge by its right name."""

    def __init__(self) -> None:
        super().__init__()
        self.named_s: dict[str, float] = {}

    async def _read(self, requests: AsyncIterator[ReportRequest], said: list[ReportRequest]) -> None:
        async def noting() -> AsyncIterator[ReportRequest]:
            async for request in requests:
                for edge in request.edges.edges:
                    for name in edge.names[:1]:
                        self.named_s.setdefault(name.name, time.monotonic())
                yield request

        await super()._read(noting(), said)


@pytest.mark.parametrize("ttl_s", [0, 60])
def test_edges_have_their_names_within_a_second(network: Cable, tmp_path: Path, ttl_s: int) -> None:
    """Of a hundred services that are resolved and called, 99 have their name within a second of their first packet."""
    names = [f"s{number}.shop" for number in range(1, SERVICES + 1)]
    hosts = "".join(f"{ONE_LAUNCH}.{number} s{number}.shop\n" for number in range(1, SERVICES + 1))

    async def scene(site: Site) -> dict[str, float]:
        recorder = Stopwatch()
        async with served(recorder, tmp_path / "dm.sock") as target, watched(network, site, target):
            called_s = {name: await site.call(name) for name in names}
            await recorder.until(lambda: len(recorder.named_s.keys() & set(names)) == SERVICES)
            return {name: recorder.named_s[name] - called_s[name] for name in names}

    with launched(network, tmp_path, ONE_LAUNCH, hosts, ttl_s=ttl_s) as site:
        waited_s = asyncio.run(scene(site))
    late = {name: waited for name, waited in waited_s.items() if waited > 1.0}
    assert len(late) <= SERVICES // 100, late


async def declare(peer: Peer, launch: str) -> None:
    """Declare a stack of one machine, launched anew."""
    spec = stack_pb2.StackSpec(
        name="shop", fingerprint="f", vcds=[stack_pb2.VcdSpec(name="web")], launch=launch
    )
    await peer.stacks.ApplyStack(stacks.ApplyStackRequest(stack=spec), timeout=DEADLINE_S)


async def edges(peer: Peer, wanted: dict[str, int]) -> list[stack_pb2.GraphEdge]:
    """The live edges, once those to the wanted targets have so many addresses."""
    found: dict[str, int] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                graph = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="shop"))
                found = {edge.target: len(edge.addresses) for edge in graph.edges}
                if wanted.items() <= found.items():
                    return list(graph.edges)
                await asyncio.sleep(0.05)
    except TimeoutError as e:
        raise AssertionError(f"the edges are {found}") from e


async def learn(peer: Peer) -> None:
    """Make the launch the golden one."""
    await peer.golden.CaptureGolden(golden.CaptureGoldenRequest(stack="shop"), timeout=DEADLINE_S)


async def differences(peer: Peer) -> list[str]:
    """What tells the live stack from its golden image."""
    asked = golden.DiffGoldenRequest(id="shop")
    return list((await peer.golden.DiffGolden(asked, timeout=DEADLINE_S)).lines)


def test_the_same_stack_at_other_addresses_equals_its_golden_image(network: Cable, tmp_path: Path) -> None:
    """Launched with every address changed, the resolver's too, a stack has the same edges by name, and no others."""

    def hosts(prefix: str) -> str:
        content = "".join(f"{prefix}.{number} edge.cdn.example\n" for number in (11, 12, 13))
        return f"{prefix}.10 db.ext\n{content}"

    async def launch(peer: Peer, prefix: str) -> list[stack_pb2.GraphEdge]:
        await declare(peer, prefix)
        with launched(network, tmp_path, prefix, hosts(prefix)) as site:
            async with watched(network, site, f"unix:{tmp_path}/dm.sock"):
                await site.call("db.ext", keep=True)
                await site.call("pay.shop", keep=True)
                found = await edges(peer, {"db.ext": 1, "pay.shop": 3, "resolver": 1})
                if prefix == ONE_LAUNCH:
                    await learn(peer)
                assert await differences(peer) == []
                return found

    async def story() -> list[list[stack_pb2.GraphEdge]]:
        async with manager(tmp_path) as peer:
            return [await launch(peer, prefix) for prefix in (ONE_LAUNCH, ANOTHER)]

    for prefix, found in zip((ONE_LAUNCH, ANOTHER), asyncio.run(story()), strict=True):
        assert {edge.target for edge in found} == {"db.ext", "pay.shop", "resolver"}
        content = next(edge for edge in found if edge.target == "pay.shop")
        assert list(content.addresses) == [f"{prefix}.{number}" for number in (11, 12, 13)]
        assert content.names[0].source == flow_pb2.NAME_SOURCE_PASSIVE_DNS


def test_a_name_that_moves_takes_its_edge_along(network: Cable, tmp_path: Path) -> None:
    """When a name leads to another address there is one edge still, with both addresses, and no unexpected one."""

    async def story(site: Site) -> list[stack_pb2.GraphEdge]:
        async with manager(tmp_path) as peer:
            await declare(peer, "one")
            async with watched(network, site, f"unix:{tmp_path}/dm.sock"):
                await site.call("db.ext")
                await edges(peer, {"db.ext": 1, "resolver": 1})
                await learn(peer)
                site.server.say(f"{ONE_LAUNCH}.20 db.ext\n")
                await site.call("db.ext")
                found = await edges(peer, {"db.ext": 2})
                assert await differences(peer) == []
                return found

    with launched(network, tmp_path, ONE_LAUNCH, f"{ONE_LAUNCH}.10 db.ext\n", ttl_s=1) as site:
        found = {edge.target: list(edge.addresses) for edge in asyncio.run(story(site))}
    assert found["db.ext"] == [f"{ONE_LAUNCH}.10", f"{ONE_LAUNCH}.20"]
    assert found.keys() == {"db.ext", "resolver"}


def test_a_name_that_is_learned_late_leaves_no_edge_behind(network: Cable, tmp_path: Path) -> None:
    """An edge that had but an address at first is one edge with a name soon after, and equals its golden image."""
    request = r"b'GET / HTTP/1.1\r\nHost: api.ext\r\n\r\n'"
    host = f"{ONE_LAUNCH}.30"

    async def story(site: Site) -> list[stack_pb2.GraphEdge]:
        async with manager(tmp_path) as peer:
            await declare(peer, "one")
            async with watched(network, site, f"unix:{tmp_path}/dm.sock"):
                site.application(f"start('api', v4, '{host}', {PORT})")
                await edges(peer, {host: 1})
                site.application(f"x['api'].send({request})")
                found = await edges(peer, {"api.ext": 1})
                await learn(peer)
                assert await differences(peer) == []
                return found

    with launched(network, tmp_path, ONE_LAUNCH, "") as site:
        (edge,) = asyncio.run(story(site))
    assert (edge.target, list(edge.addresses)) == ("api.ext", [host])
    assert edge.names[0].source == flow_pb2.NAME_SOURCE_HTTP_HOST
