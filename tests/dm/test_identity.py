"""Who may do what, proved by real calls with real certificates."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from dm.client import Tls, connect
from dm.golden import encode
from dm.service.identity import RIGHTS, Identity, Role
from dm.v1 import (
    agent_pb2,
    agent_service_pb2,
    agent_service_pb2_grpc,
    golden_service_pb2,
    golden_service_pb2_grpc,
    rollback_service_pb2,
    rollback_service_pb2_grpc,
    stack_pb2,
    stack_service_pb2,
    stack_service_pb2_grpc,
)
from dm.v1 import golden_service_pb2 as golden
from dm.v1 import rollback_service_pb2 as rollback
from dm.v1 import stack_service_pb2 as stacks
from idm.ca import Authority
from tests.dm.secure import HERE, secure_manager
from tests.dm.test_golden import an_image

DEADLINE_S = 10.0
FILES = (agent_service_pb2, golden_service_pb2, rollback_service_pb2, stack_service_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

Ask = Callable[[str], Message]
"""A request about a stack."""

IMAGES = {stack: an_image(stack=stack) for stack in ("pair", "other")}

# Written down once more, by hand: who may call what, and a request for it.
TABLE: dict[str, tuple[str, Ask]] = {
    "Report": (
        "vcd",
        lambda stack: agent_service_pb2.ReportRequest(hello=agent_pb2.Hello(stack=stack, vcd="web")),
    ),
    "ApplyStack": ("deployer", lambda stack: stacks.ApplyStackRequest(stack=declared(stack))),
    "RemoveStack": ("deployer", lambda stack: stacks.RemoveStackRequest(stack=stack)),
    "ListStacks": ("deployer operator", lambda _: stacks.ListStacksRequest()),
    "GetStatus": ("deployer operator", lambda stack: stacks.GetStatusRequest(stack=stack)),
    "Explain": ("deployer operator", lambda stack: stacks.ExplainRequest(stack=stack)),
    "GetGraph": ("deployer operator", lambda stack: stacks.GetGraphRequest(stack=stack)),
    "WatchStatus": ("deployer operator", lambda stack: stacks.WatchStatusRequest(stack=stack)),
    "WatchEvents": ("deployer operator", lambda stack: stacks.WatchEventsRequest(stack=stack, past=1)),
    "CaptureGolden": ("operator", lambda stack: golden.CaptureGoldenRequest(stack=stack)),
    "ListGolden": ("deployer operator", lambda stack: golden.ListGoldenRequest(stack=stack)),
    "GetGolden": ("deployer operator", lambda stack: golden.GetGoldenRequest(id=IMAGES[stack].id)),
    "DiffGolden": (
        "deployer operator",
        lambda stack: golden.DiffGoldenRequest(id=IMAGES["pair"].id, other=IMAGES[stack].id),
    ),
    "MergeGolden": (
        "operator",
        lambda stack: golden.MergeGoldenRequest(ids=[IMAGES["pair"].id, IMAGES[stack].id]),
    ),
    "ImportGolden": ("operator", lambda stack: golden.ImportGoldenRequest(document=encode(IMAGES[stack]))),
    "SetGoldenRule": ("operator", lambda stack: golden.SetGoldenRuleRequest(id=stack)),
    "DeleteGolden": ("operator", lambda stack: golden.DeleteGoldenRequest(id=stack)),
    "Attend": (
        "deployer",
        lambda stack: rollback.AttendRequest(attach=rollback.Attach(stack=stack, session="s")),
    ),
    "RequestRollback": (
        "operator",
        lambda stack: rollback.RequestRollbackRequest(stack=stack, vcds=["nosuch"]),
    ),
    "ResolveRollback": ("operator", lambda stack: rollback.ResolveRollbackRequest(operation=f"{stack}-1")),
    "SetGuard": ("operator", lambda stack: rollback.SetGuardRequest(stack=stack)),
    "ListRollbacks": ("deployer operator", lambda stack: rollback.ListRollbacksRequest(stack=stack)),
}


def declared(stack: str) -> stack_pb2.StackSpec:
    """A stack of three."""
    vcds = [stack_pb2.VcdSpec(name=name) for name in ("web", "db", "api")]
    return stack_pb2.StackSpec(name=stack, fingerprint="f", vcds=vcds, launch="l")


async def ask(channel: grpc.aio.Channel, name: str, request: Message) -> grpc.StatusCode:
    """Call a method, for its first answer; what it ends with, OK for an answer."""
    method = METHODS[name]
    codec: dict[str, Any] = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    try:
        async with asyncio.timeout(DEADLINE_S):
            if method.client_streaming:
                both = channel.stream_stream(name, **codec)()
                await both.write(request)
                # A deployer is told nothing until something happens; its own end is answer enough.
                await (both.done_writing() if method.name == "Attend" else asyncio.sleep(0))
                await both.read()
                both.cancel()
            elif method.server_streaming:
                stream = channel.unary_stream(name, **codec)(request)
                await stream.read()
                stream.cancel()
            else:
                await channel.unary_unary(name, **codec)(request)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def prepare(target: str) -> None:
    """Two stacks with an image each, by the door that is open to all."""
    async with connect(target) as channel:
        for stack in IMAGES:
            for name in ("StackService/ApplyStack", "GoldenService/ImportGolden"):
                request = TABLE[name.rpartition("/")[2]][1](stack)
                assert await ask(channel, f"/dm.v1.{name}", request) is grpc.StatusCode.OK


def bundle(folder: Path, *authorities: Path) -> Path:
    """One file with several authorities, for a manager of several stacks."""
    both = folder / "bundle.pem"
    both.write_bytes(b"".join((authority / "ca.pem").read_bytes() for authority in authorities))
    return both


def test_every_method_has_its_right() -> None:
    """A method that is added to the contract is refused over TLS, and fails this test, until somebody decides."""
    assert set(RIGHTS) == set(METHODS)
    assert {name.rpartition("/")[2] for name in METHODS} == set(TABLE)
    for name, right in RIGHTS.items():
        assert " ".join(sorted(right.roles)) == TABLE[name.rpartition("/")[2]][0]


def test_the_table_holds_on_the_wire(tmp_path: Path) -> None:
    """Each method is called with every role's certificate, about its own stack and another: 160 real calls.

    A manager that serves two stacks trusts both authorities, and neither's certificates reach the other stack.
    """
    own, foreign = Authority(tmp_path / "pair", "pair"), Authority(tmp_path / "other", "other")
    server = own.manager([HERE])
    foreign.operator()
    trusting = Tls(
        ca=bundle(tmp_path, tmp_path / "pair", tmp_path / "other"),
        certificate=server.certificate,
        key=server.key,
    )
    callers = {
        "vcd web": own.vcd("web"),
        "vcd db": own.vcd("db"),
        "deployer": own.deployer(),
        "operator": own.operator(),
    }

    async def story() -> list[str]:
        wrong = []
        async with secure_manager(tmp_path, trusting) as (_, target), AsyncExitStack() as open_channels:
            for caller, tls in callers.items():
                channel = await open_channels.enter_async_context(connect(target, tls=tls))
                for name in METHODS:
                    roles, request = TABLE[name.rpartition("/")[2]]
                    for stack in IMAGES:
                        await prepare(f"unix:{tmp_path}/dm.sock")
                        mine = caller.split()[0] in roles and caller != "vcd db"
                        about_no_stack = name.endswith(("/ListStacks", "/ResolveRollback"))
                        allowed = mine and (stack == "pair" or about_no_stack)
                        code = await ask(channel, name, request(stack))
                        if (code is not grpc.StatusCode.PERMISSION_DENIED) != allowed:
                            wrong.append(f"{caller} {name} about {stack}: {code}")
        return wrong

    assert asyncio.run(story()) == []


def test_an_operation_of_another_stack_is_not_resolved(tmp_path: Path) -> None:
    """An operation's name alone does not open it: its stack has to be the certificate's."""
    authority = Authority(tmp_path / "ca", "pair")

    async def story() -> None:
        async with secure_manager(tmp_path, authority.manager([HERE])) as (_, target):
            await prepare(f"unix:{tmp_path}/dm.sock")
            async with connect(f"unix:{tmp_path}/dm.sock") as local:
                stub = rollback_service_pb2_grpc.RollbackServiceStub(local)
                request = rollback.RequestRollbackRequest(stack="other", vcds=["db"])
                asked = await stub.RequestRollback(request, timeout=DEADLINE_S)
            resolve = rollback.ResolveRollbackRequest(operation=asked.rollback.operation, approve=False)
            async with connect(target, tls=authority.operator()) as channel:
                code = await ask(channel, "/dm.v1.RollbackService/ResolveRollback", resolve)
            assert code is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(story())


def test_a_reader_of_all_stacks_sees_its_own(tmp_path: Path) -> None:
    """What is asked about all stacks is answered about the stack in the certificate."""
    authority = Authority(tmp_path / "ca", "pair")

    async def story() -> None:
        async with secure_manager(tmp_path, authority.manager([HERE])) as (_, target):
            await prepare(f"unix:{tmp_path}/dm.sock")
            async with connect(target, tls=authority.operator()) as channel:
                listed = await stack_service_pb2_grpc.StackServiceStub(channel).ListStacks(
                    stacks.ListStacksRequest(), timeout=DEADLINE_S
                )
                assert [one.stack for one in listed.stacks] == ["pair"]
                stub = golden_service_pb2_grpc.GoldenServiceStub(channel)
                images = await stub.ListGolden(golden.ListGoldenRequest(), timeout=DEADLINE_S)
                assert {one.stack for one in images.golden} == {"pair"}
                watch = stack_service_pb2_grpc.StackServiceStub(channel).WatchEvents(
                    stacks.WatchEventsRequest(past=100), timeout=DEADLINE_S
                )
                seen = {response.event.stack async for response in watch}
                assert seen == {"pair"}

    asyncio.run(story())


def test_refusals_are_one_line(tmp_path: Path) -> None:
    """A refusal says whose certificate it is and what it is not for."""
    authority = Authority(tmp_path / "ca", "pair")

    async def story() -> None:
        async with secure_manager(tmp_path, authority.manager([HERE])) as (_, target):
            await prepare(f"unix:{tmp_path}/dm.sock")
            async with connect(target, tls=authority.vcd("web")) as channel:
                stub = stack_service_pb2_grpc.StackServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as role:
                    await stub.GetStatus(stacks.GetStatusRequest(stack="pair"), timeout=DEADLINE_S)
                assert (
                    role.value.details()
                    == "vcd web of pair may not call GetStatus: it is for deployer or operator"
                )
                for stack, vcd, says in (
                    ("pair", "db", "the certificate is of vcd web of pair: it is not for VCD 'db'"),
                    ("other", "web", "the certificate is of vcd web of pair: it is not for stack 'other'"),
                ):
                    call = agent_service_pb2_grpc.AgentServiceStub(channel).Report()
                    hello = agent_pb2.Hello(stack=stack, vcd=vcd)
                    await call.write(agent_service_pb2.ReportRequest(hello=hello))
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call.read()
                    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                    assert refused.value.details() == says

    asyncio.run(story())


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("stackmend://shop/vcd/web", Identity("shop", Role.VCD, "web")),
        ("stackmend://shop/deployer", Identity("shop", Role.DEPLOYER)),
        ("stackmend://shop/operator", Identity("shop", Role.OPERATOR)),
        ("stackmend://shop/vcd/", None),
        ("stackmend://shop/vcd/web/x", None),
        ("stackmend:///operator", None),
        ("stackmend://shop/root", None),
        ("https://shop/operator", None),
        ("stackmend://shop/operator\n", None),
    ],
)
def test_only_whole_names_are_identities(uri: str, identity: Identity | None) -> None:
    """A URI that is not exactly of a known form names nobody."""
    assert Identity.parse(uri) == identity
