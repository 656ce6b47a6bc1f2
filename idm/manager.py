"""The manager of a stack: where it listens, how it is started, and calls to it."""

import sys
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import NamedTuple, TypeVar

import grpc
import grpc.aio

from dm.client import ManagerError, Tls, connect, explain
from dm.v1.stack_pb2 import Status
from dm.v1.stack_service_pb2 import GetGraphRequest, GetStatusRequest, ListStacksRequest
from dm.v1.stack_service_pb2_grpc import StackServiceStub
from idm.home import Home
from idm.manifest import Manifest
from idm.supervise import Child

PORT = 7443
CALL_S = 10.0

Answer = TypeVar("Answer")


class Access(NamedTuple):
    """How a manager is reached: by its socket on this host, or at an address by a certificate."""

    target: str
    tls: Tls | None = None


def endpoint(manifest: Manifest) -> tuple[str, int]:
    """The address and port at which agents in VMs reach the manager, on this host or in one of the VMs."""
    address, _, port = manifest.manager.listen.partition(":")
    if seat := manifest.manager.vcd:
        address = address or manifest.vcd[seat].address
    gateway = ip_network(manifest.network.subnet).network_address + 1
    return address or str(gateway), int(port or PORT)


def manager(home: Home, *, listen: str = "", tls: Tls | None = None) -> Child:
    """The manager of this home, at its socket; with certificates also at an address for guests."""
    command = [sys.executable, "-P", "-m", "dm", "serve"]
    command += ["--listen", home.target, "--state", str(home.manager_store)]
    if tls is not None:
        command += ["--listen", listen, "--tls-ca", str(tls.ca), "--tls-cert", str(tls.certificate)]
    # One that listens elsewhere is not adopted.
    return Child("dm", tuple(command), identity=listen, notifies=True)


async def call(access: Access, request: Callable[[grpc.aio.Channel], Awaitable[Answer]]) -> Answer:
    """One call to the manager on a channel of its own. Raises ``ManagerError``."""
    try:
        async with connect(access.target, tls=access.tls) as channel:
            return await request(channel)
    except grpc.aio.AioRpcError as e:
        raise explain(e, target=access.target) from e


async def answers(access: Access) -> bool:
    """Whether a manager is there."""
    try:
        await call(
            access, lambda channel: StackServiceStub(channel).ListStacks(ListStacksRequest(), timeout=CALL_S)
        )
    except ManagerError:
        return False
    return True


async def status(access: Access, stack: str) -> Status:
    """The stack as it is judged now. Raises ``ManagerError``."""
    request = GetStatusRequest(stack=stack)
    reply = await call(access, lambda channel: StackServiceStub(channel).GetStatus(request, timeout=CALL_S))
    return reply.status


async def heard(access: Access, stack: str) -> set[str]:
    """The VCDs whose agents are connected to the manager. Raises ``ManagerError``."""
    request = GetGraphRequest(stack=stack)
    graph = await call(access, lambda channel: StackServiceStub(channel).GetGraph(request, timeout=CALL_S))
    return {node.name for node in graph.nodes if node.agent_connected}
