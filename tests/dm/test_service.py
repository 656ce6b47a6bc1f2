"""The manager over its real wire: gRPC on a unix socket, agents and deployers as small clients."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest

from dm.service.server import ServeError, serving
from dm.store.sqlite import Store
from dm.v1 import agent_pb2, flow_pb2, stack_pb2
from dm.v1 import agent_service_pb2 as agent_service
from dm.v1 import golden_service_pb2 as golden
from dm.v1 import rollback_service_pb2 as rollback
from dm.v1 import stack_service_pb2 as stacks
from tests.dm.peer import DB, DEADLINE_S, Peer, answer, good, next_command, refused, run
from tests.idm.until import until


def test_a_translated_address_is_shown_with_the_machine_behind_it(tmp_path: Path) -> None:
    """A call of another address that a packet filter sends to db is an edge to db, and shows both addresses."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web:
            edge = good()
            edge.address, edge.port = ip_address("198.18.9.9").packed, 80
            edge.backends.add(address=DB, port=5432)
            await web.report(edge)
            reply = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="pair"), timeout=DEADLINE_S)
        (shown,) = reply.edges
        assert (shown.target, shown.port) == ("db", 5432)
        assert (list(shown.addresses), list(shown.backends)) == (["198.18.9.9"], ["198.18.0.2:5432"])

    run(tmp_path, story)


def test_the_loop_closes_over_the_wire(tmp_path: Path) -> None:
    """Learn, break, decide, command, take back, reconnect, verify: all by messages."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web, peer.agent("db") as db:
            await db.report()
            await web.report(good())
            captured = await peer.golden.CaptureGolden(
                golden.CaptureGoldenRequest(stack="pair"), timeout=DEADLINE_S
            )
            await peer.until(lambda status: status.verdict == stack_pb2.VERDICT_OK)
            deployer = peer.rollbacks.Attend()
            await deployer.write(rollback.AttendRequest(attach=rollback.Attach(stack="pair", session="d")))
            status = await peer.break_db(web)
            assert status.suspects[0].name == "db"
            command = await next_command(deployer)
            assert list(command.save_evidence.vcds) == ["db"]
            await answer(deployer, command, evidence="/somewhere")
            command = await next_command(deployer)
            assert command.revert.golden == captured.golden.id
            assert dict(command.revert.generations) == {"db": 2}
            for incarnation in ("one", "two"):
                report = rollback.InstanceReport(
                    vcd="db", power=stack_pb2.POWER_RUNNING, incarnation=incarnation
                )
                await deployer.write(rollback.AttendRequest(instance=report))
            await answer(deployer, command, snapshot="tag")
            response = await web.read()
            assert list(response.reconnect.addresses) == [DB]
            async with peer.agent("db", generation=2) as reverted:
                await reverted.report()
                await web.report(good())
                await peer.until(lambda status: status.verdict == stack_pb2.VERDICT_OK)
                listed = await peer.rollbacks.ListRollbacks(
                    rollback.ListRollbacksRequest(), timeout=DEADLINE_S
                )
                assert [one.outcome for one in listed.rollbacks] == [rollback.ROLLBACK_OUTCOME_RECOVERED]
            deployer.cancel()

    run(tmp_path, story)


def test_somebody_elses_revert_is_told_once_and_frees_the_peers(tmp_path: Path) -> None:
    """A VCD that was taken back past the deployer has a new generation, and its peers drop their dead connections."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web, peer.agent("db"):
            deployer = peer.rollbacks.Attend()
            await deployer.write(rollback.AttendRequest(attach=rollback.Attach(stack="pair", session="d")))
            for incarnation, reverted in (("one", False), ("two", False), ("two", True), ("two", True)):
                report = rollback.InstanceReport(
                    vcd="db", power=stack_pb2.POWER_RUNNING, incarnation=incarnation, reverted=reverted
                )
                await deployer.write(rollback.AttendRequest(instance=report))
            response = await web.read()
            assert list(response.reconnect.addresses) == [DB]
            assert peer.manager.stack("pair").stack.vcds["db"].generation == 2
            request = stacks.WatchEventsRequest(stack="pair", past=100)
            told = [
                item.event.vcd
                async for item in peer.stacks.WatchEvents(request, timeout=DEADLINE_S)
                if item.event.kind == "external rollback"
            ]
            assert told == ["db"]
            deployer.cancel()

    run(tmp_path, story)


def test_what_cannot_be_taken_back_is_known_until_it_can(tmp_path: Path) -> None:
    """A deployer's reason why counts until its next report of that VCD."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        db = peer.manager.stack("pair").stack.vcds["db"]
        deployer = peer.rollbacks.Attend()
        await deployer.write(rollback.AttendRequest(attach=rollback.Attach(stack="pair", session="d")))

        async def heard(power: stack_pb2.Power.ValueType, why: str) -> None:
            report = rollback.InstanceReport(vcd="db", power=power, unrevertible=why)
            await deployer.write(rollback.AttendRequest(instance=report))
            await until(lambda: db.unrevertible == why)

        await heard(stack_pb2.POWER_ABSENT, "gone: make it anew")
        await heard(stack_pb2.POWER_RUNNING, "")
        deployer.cancel()

    run(tmp_path, story)


def test_who_takes_a_machine_back_and_holds_it_is_told_once(tmp_path: Path) -> None:
    """Peers drop their dead connections before it goes on, so that none of its new life is among them."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web, peer.agent("db"):
            deployer = peer.rollbacks.Attend()
            await deployer.write(rollback.AttendRequest(attach=rollback.Attach(stack="pair", session="d")))
            running, paused = stack_pb2.POWER_RUNNING, stack_pb2.POWER_PAUSED
            for power, incarnation, reverted, held in (
                (running, "one", False, ""),
                (paused, "two", False, "is being started or taken back"),
                (paused, "two", True, "was taken back"),
                (running, "two", True, ""),
            ):
                report = rollback.InstanceReport(
                    vcd="db", power=power, incarnation=incarnation, reverted=reverted, held=held
                )
                await deployer.write(rollback.AttendRequest(instance=report))
            assert list((await web.read()).reconnect.addresses) == [DB]
            request = stacks.WatchEventsRequest(stack="pair", past=100)
            told = [item.event async for item in peer.stacks.WatchEvents(request, timeout=DEADLINE_S)]
            assert [event.vcd for event in told if event.kind == "external rollback"] == ["db"]
            assert [event.message for event in told if event.kind == "instance"] == [
                "db is running",
                "db is paused again, started anew, and is being started or taken back",
                "db is paused, and was taken back",
                "db is running",
            ]
            deployer.cancel()

    run(tmp_path, story)


def test_an_agent_of_an_older_generation_is_not_heard(tmp_path: Path) -> None:
    """An agent brought back by a memory snapshot is told its generation; until it takes it on nothing counts."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        vcd = peer.manager.stack("pair").stack.vcds["web"]
        vcd.generation = 7
        async with peer.agent("web", generation=3) as old:
            assert old.generation == 7
            old.generation = 3
            message = agent_pb2.Edges(generation=3, revision=1, complete=True, edges=[good()])
            await old.call.write(agent_service.ReportRequest(edges=message))
            graph = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="pair"), timeout=DEADLINE_S)
            assert list(graph.edges) == []
            old.generation = 7
            await old.hello()
            await old.report(good())
            graph = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="pair"), timeout=DEADLINE_S)
            assert len(graph.edges) == 1

    run(tmp_path, story)


def test_a_manager_that_lost_its_file_takes_on_the_agents_generation(tmp_path: Path) -> None:
    """An agent that was told a generation by an earlier manager is heard, and the generation is kept."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web", generation=5) as agent:
            assert agent.generation == 5
            await agent.report(good())
        assert peer.manager.store.generations("pair") == {"web": 5}

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("detail", "verdict"), [(True, stack_pb2.VERDICT_OK), (False, stack_pb2.VERDICT_INCONCLUSIVE)]
)
def test_a_missing_probe_counts_unless_it_is_a_detail(
    tmp_path: Path, *, detail: bool, verdict: "stack_pb2.Verdict.ValueType"
) -> None:
    """What an older kernel lacks leaves the verdict conclusive as long as the rest sees what decides."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        probe = agent_pb2.Probe(name="sock_send_length", problem="this kernel has none", detail=detail)
        async with peer.agent("web", probes=[probe]) as web, peer.agent("db") as db:
            await db.report()
            await web.report(good())
            await peer.golden.CaptureGolden(golden.CaptureGoldenRequest(stack="pair"), timeout=DEADLINE_S)
            assert (await peer.status()).verdict == verdict

    run(tmp_path, story)


def test_a_newer_stream_of_the_same_agent_wins(tmp_path: Path) -> None:
    """When an agent comes back before its old stream was found dead, the old one is ended."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as old, peer.agent("web") as new:
            async with asyncio.timeout(DEADLINE_S):
                assert await old.call.read() is grpc.aio.EOF
            await new.report(good())
            assert peer.manager.stack("pair").stack.vcds["web"].connected

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("edge", "says"),
    [
        (flow_pb2.Edge(address=DB, port=1), "no transport or no port"),
        (flow_pb2.Edge(transport=flow_pb2.TRANSPORT_TCP, address=DB), "no transport or no port"),
        (flow_pb2.Edge(transport=flow_pb2.TRANSPORT_TCP, address=b"xyz", port=1), "3 bytes"),
    ],
)
def test_a_wrong_edge_ends_its_own_stream_with_the_reason(
    tmp_path: Path, edge: flow_pb2.Edge, says: str
) -> None:
    """A hostile or broken agent hurts nobody but itself."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("db") as db, peer.agent("web") as web:
            message = agent_pb2.Edges(generation=1, revision=1, edges=[edge])
            await web.call.write(agent_service.ReportRequest(edges=message))
            with pytest.raises(grpc.aio.AioRpcError, match=says):
                await web.read()
            await db.report()

    run(tmp_path, story)


def test_refusals_carry_the_cores_words(tmp_path: Path) -> None:
    """A call that cannot be done ends with a status and one line, never with a stack trace."""

    async def story(peer: Peer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await peer.status()
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert "no stack 'pair' is deployed here" in (unknown.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await peer.golden.ImportGolden(golden.ImportGoldenRequest(document="{"), timeout=DEADLINE_S)
        assert broken.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await peer.apply()
        with pytest.raises(grpc.aio.AioRpcError) as blind:
            await peer.golden.CaptureGolden(golden.CaptureGoldenRequest(stack="pair"), timeout=DEADLINE_S)
        assert "silent" in (blind.value.details() or "")

    run(tmp_path, story)


def test_events_are_kept_and_followed(tmp_path: Path) -> None:
    """A watcher gets past events first and then each new one."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        watch = peer.stacks.WatchEvents(stacks.WatchEventsRequest(past=10, follow=True))
        async with asyncio.timeout(DEADLINE_S):
            first = await watch.read()
            assert isinstance(first, stacks.WatchEventsResponse)
            assert first.event.kind == "verdict"
            async with peer.agent("web"):
                second = await watch.read()
        assert isinstance(second, stacks.WatchEventsResponse)
        assert (second.event.kind, second.event.vcd) == ("agent", "web")
        watch.cancel()

    run(tmp_path, story)


def test_a_second_manager_at_the_same_socket_is_refused(tmp_path: Path) -> None:
    """A socket that answers is never taken over; one that is dead is."""

    async def story(_: Peer) -> None:
        with Store(tmp_path / "other.sqlite") as store, pytest.raises(ServeError, match="listens at"):
            async with serving(store, f"unix:{tmp_path}/dm.sock"):
                pass

    run(tmp_path, story)
    (tmp_path / "dm.sock").unlink(missing_ok=True)


def test_only_local_addresses_are_served(tmp_path: Path) -> None:
    """What would travel unencrypted stays on this machine."""

    async def story() -> None:
        with Store(tmp_path / "dm.sqlite") as store, pytest.raises(ServeError, match="other machines"):
            async with serving(store, "0.0.0.0:7443"):
                pass

    asyncio.run(story())


def test_an_image_of_another_manifest_is_not_put_in_force(tmp_path: Path) -> None:
    """It would leave the stack without judgement; the refusal says what to do, and the image in force stays."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web, peer.agent("db") as db:
            await db.report()
            await web.report(good())
            request = golden.CaptureGoldenRequest(stack="pair")
            captured = await peer.golden.CaptureGolden(request, timeout=DEADLINE_S)
            found = await peer.golden.GetGolden(
                golden.GetGoldenRequest(id=captured.golden.id), timeout=DEADLINE_S
            )
            other = found.document.replace('"fingerprint": "f"', '"fingerprint": "g"')
            with pytest.raises(
                grpc.aio.AioRpcError, match=r'another manifest .* write into it "fingerprint": "f"'
            ):
                await peer.golden.ImportGolden(golden.ImportGoldenRequest(document=other), timeout=DEADLINE_S)
            assert (await peer.status()).golden == captured.golden.id
            elsewhere = found.document.replace('"stack": "pair"', '"stack": "other"')
            await peer.golden.ImportGolden(golden.ImportGoldenRequest(document=elsewhere), timeout=DEADLINE_S)

    run(tmp_path, story)


def test_a_launch_is_learned_once_and_only_while_all_works(tmp_path: Path) -> None:
    """A second capture of one launch does not count as another, and one of a broken stack is refused."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        diff = golden.DiffGoldenRequest(id="pair")
        async with peer.agent("web") as web:
            async with peer.agent("db") as db:
                await db.report()
                await web.report(good())
                request = golden.CaptureGoldenRequest(stack="pair", smoke=True)
                captured = await peer.golden.CaptureGolden(request, timeout=DEADLINE_S)
                assert captured.sentences
                again = golden.CaptureGoldenRequest(stack="pair", merge=True)
                with pytest.raises(grpc.aio.AioRpcError, match="learned from this launch already"):
                    await peer.golden.CaptureGolden(again, timeout=DEADLINE_S)
                await web.report(refused(3))
                with pytest.raises(
                    grpc.aio.AioRpcError, match=r"while web → db:5432 fails, .*: mend it first"
                ):
                    await peer.golden.CaptureGolden(request, timeout=DEADLINE_S)
                reply = await peer.golden.DiffGolden(diff, timeout=DEADLINE_S)
                (wrong,) = reply.differences
                assert (wrong.kind, wrong.edge.source) == (golden.DIFFERENCE_KIND_WRONG, "web")
            await peer.until(lambda _: peer.manager.stack("pair").stack.vcds["db"].seen_since_s is None)
            with pytest.raises(grpc.aio.AioRpcError, match="silent, so what is missing may only be unseen"):
                await peer.golden.DiffGolden(diff, timeout=DEADLINE_S)

    run(tmp_path, story)
