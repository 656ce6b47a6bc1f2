"""One stack's judgement, played through in virtual time."""

from ipaddress import IPv4Address

import msgspec
import pytest

from dm.golden import GoldenImage, Kind
from dm.learning import merge
from dm.rules import Action, Rule
from dm.states import EdgeState
from dm.verdict import Verdict
from tests.sim.program import Need, Style
from tests.sim.systems import System, shop
from tests.sim.world import World

OUTSIDE = IPv4Address("198.19.255.1")


def learned(*, starts_s: dict[str, float] | None = None) -> GoldenImage:
    """The image of one good launch of the shop."""
    world = shop().launch(seed=7, starts_s=starts_s)
    world.run(25.0)
    return world.stack.learn(smoke=True)


def healthy() -> World:
    """A shop in its steady state, guarded by an image of an earlier launch."""
    world = shop().launch()
    world.guard(learned())
    assert world.until(Verdict.OK, within_s=20.0) is not None
    world.run(5.0)
    return world


def test_without_an_image_nothing_is_concluded() -> None:
    """A stack that has no golden image is never judged ok or failed."""
    world = shop().launch()
    world.run(10.0)
    assert world.verdicts() == {Verdict.INCONCLUSIVE}


def test_a_launch_equal_to_its_image_deviates_by_nothing() -> None:
    """The same stack launched with other addresses goes from launching to ok and deviates by 0."""
    image = learned()
    world = shop().launch(network="198.19.")
    world.guard(image)
    world.run(20.0)
    assert world.verdicts() == {Verdict.LAUNCHING, Verdict.OK}
    assert world.history[-1][1].deviation == 0.0
    assert all(judgement.deviation == 0.0 for _, judgement in world.history)


@pytest.mark.parametrize("victim", ["cache", "db", "queue", "web", "api"])
def test_a_crashed_service_is_found_within_five_seconds(victim: str) -> None:
    """Refused connections lead to a decision within 5 s, and the service that refuses them is blamed."""
    world = healthy()
    world.broken.add(victim)
    decided_s = world.until(Verdict.FAILED, within_s=10.0)
    assert decided_s is not None
    assert decided_s <= 5.0
    assert world.culprits() == [victim]


def test_who_listens_no_longer_is_found_behind_who_calls_no_longer() -> None:
    """When a server and its only caller die at once, nobody calls on the server; its closed port tells."""
    world = healthy()
    for name in ("web", "api"):
        world.broken.add(name)
        world.drop_connections(name)
    assert world.until(Verdict.FAILED, within_s=10.0) is not None
    assert sorted(world.culprits()) == ["api", "web"]


@pytest.mark.parametrize("name", ["web", "api", "cache", "db", "queue"])
def test_who_answers_calls_listens_whatever_was_said(name: str) -> None:
    """A server that was looked at while it was restarted is no fault as soon as anybody gets through to it again."""
    world = healthy()
    since_s = world.now_s
    world.stack.presence(world.vcd(name), [world.addresses[name]], frozenset(), now_s=world.now_s)
    world.run(10.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)


def test_a_service_that_takes_datagrams_is_found() -> None:
    """Datagrams that nobody takes are refused, and whoever should take them is blamed."""
    world = healthy()
    world.broken.add("metrics")
    decided_s = world.until(Verdict.FAILED, within_s=10.0)
    assert decided_s is not None
    assert decided_s <= 5.0
    assert world.culprits() == ["metrics"]
    world.repair("metrics")
    world.run(10.0)
    assert world.history[-1][1].verdict is Verdict.OK


def test_a_client_that_is_switched_off_is_blamed_and_not_its_server() -> None:
    """What the deployer says of a machine stands; who waits for its calls is idle for want of them."""
    world = healthy()
    world.broken.add("client")
    world.disconnect("client")
    world.switch_off("client")
    assert world.until(Verdict.FAILED, within_s=30.0) is not None
    assert world.culprits() == ["client"]


def test_a_caller_pointed_at_a_wrong_port_is_blamed_in_time() -> None:
    """When api calls the right machine at a port where nobody listens, api is blamed within 5 s."""
    world = healthy()
    world.pointed["api", "db", 5432] = (world.addresses["db"], 5433)
    decided_s = world.until(Verdict.FAILED, within_s=15.0)
    assert decided_s is not None
    assert decided_s <= 5.0
    assert world.culprits() == ["api"]


def test_who_is_behind_the_open_connections_of_a_hung_caller_is_not_blamed() -> None:
    """A hung caller holds its connections open and calls no longer: those behind them fall silent too."""
    needs = [
        Need("client", "web", 80, style=Style.CALLS, period_s=0.5),
        Need("web", "api", 8000, eager=False),
        Need("web", "mail.example", 25, style=Style.CALLS, eager=False),
        Need("api", "db", 5432, style=Style.CALLS, eager=False),
    ]
    system = System(needs, vcds=["api", "client", "db", "web"], externals={"mail.example": OUTSIDE})
    world = system.launch()
    world.guard(system.learn())
    world.run(25.0)
    world.hung.add("web")
    assert world.until(Verdict.FAILED, within_s=20.0) is not None
    assert world.culprits() == ["web"]


def test_a_caller_pointed_at_a_wrong_address_is_blamed() -> None:
    """When api calls an address that nobody has, api is blamed and not the database that it no longer calls."""
    world = healthy()
    world.pointed["api", "db", 5432] = (IPv4Address("198.18.255.254"), 5432)
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    assert world.culprits() == ["api"]


def test_a_caller_pointed_at_another_service_is_blamed() -> None:
    """When api calls the cache where it should call the database, api is blamed."""
    world = healthy()
    world.pointed["api", "db", 5432] = (world.addresses["cache"], 5432)
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    assert world.culprits() == ["api"]


@pytest.mark.parametrize("victim", ["api", "db", "worker"])
def test_a_machine_cut_off_from_all_others_is_blamed(victim: str) -> None:
    """When a packet filter drops all of one machine's traffic, that machine is blamed."""
    world = healthy()
    world.isolated.add(victim)
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    assert world.culprits() == [victim]


def test_a_machine_cut_off_together_with_its_agent_is_blamed() -> None:
    """That its connections were open when it was last heard proves nothing: its only caller is not blamed instead."""
    needs = [
        Need("web", "api", 8000, style=Style.CALLS, period_s=0.5),
        Need("api", "db", 5432),
        Need("api", "cache", 6379),
    ]
    system = System(needs, vcds=["api", "cache", "db", "web"], externals={})
    world = system.launch()
    world.guard(system.learn())
    world.run(25.0)
    world.isolated.add("api")
    world.silent.add("api")
    assert world.until(Verdict.FAILED, within_s=20.0) is not None
    assert world.culprits() == ["api"]


def test_a_restart_by_hand_is_no_fault() -> None:
    """An instance that is stopped and started again gets the time that its launch took."""
    world = healthy()
    since_s = world.now_s
    world.restart("db", down_s=4.0)
    world.run(20.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_a_service_restarted_inside_its_machine_is_no_fault() -> None:
    """A service that is away for two seconds comes back before the deviation is believed."""
    world = healthy()
    since_s = world.now_s
    world.broken.add("db")
    world.run(2.0)
    world.broken.clear()
    world.run(10.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_an_instance_that_restarts_for_ever_is_a_fault() -> None:
    """A crash loop is forgiven only a few times."""
    world = healthy()
    for number in range(8):
        world.restart("db", down_s=60.0, incarnation=f"loop {number}")
        world.run(4.0)
    assert world.until(Verdict.FAILED, within_s=10.0) is not None
    assert world.culprits() == ["db"]


def test_a_late_start_within_what_was_learned_is_no_fault() -> None:
    """A service that starts later than before, but within its deadline, is waited for."""
    world = shop().launch(starts_s={"db": 6.0})
    world.guard(merge([learned(), learned(starts_s={"db": 4.0})]))
    world.run(20.0)
    assert world.verdicts() == {Verdict.LAUNCHING, Verdict.OK}


@pytest.mark.parametrize("victim", ["db", "api", "queue"])
def test_a_launch_that_never_gets_whole_fails_when_it_is_due(victim: str) -> None:
    """Nothing is concluded before the learned deadline; after it the missing service is blamed."""
    image = learned()
    world = shop().launch()
    world.broken.add(victim)
    world.guard(image)
    touched = [edge for edge in image.edges if victim in (edge.source, edge.target)]
    due_s = min(edge.deadline_s(world.policy.slack_s) for edge in touched)
    world.run(due_s - 0.5)
    assert world.verdicts() == {Verdict.LAUNCHING}
    assert world.until(Verdict.FAILED, within_s=20.0) is not None
    assert world.culprits() == [victim]


def test_a_silent_agent_is_no_fault() -> None:
    """Silence alone is never evidence: the stack cannot be judged, and nobody is blamed."""
    world = healthy()
    since_s = world.now_s
    world.disconnect("api")
    world.run(60.0)
    assert world.verdicts(since_s=since_s) <= {Verdict.OK, Verdict.INCONCLUSIVE}
    world.connect("api")
    world.run(3.0)
    assert world.history[-1][1].verdict is Verdict.OK


def test_a_restarted_manager_sees_the_same() -> None:
    """A manager that lost everything is whole again as soon as the agents have sent their tables."""
    world = healthy()
    image, since_s = world.stack.image, world.now_s
    assert image is not None
    world.new_manager()
    world.guard(image)
    world.run(1.5)
    assert world.history[-1][1].verdict is Verdict.OK
    world.run(30.0)
    assert world.verdicts(since_s=since_s) <= {Verdict.OK, Verdict.INCONCLUSIVE}


def test_a_connection_held_for_long_and_closed_is_missing_only_after_its_rhythm() -> None:
    """An open connection is activity: when it closes, the time that it was open is no quiet time."""
    world = healthy()
    world.run(30.0)
    since_s = world.now_s
    world.hung.add("worker")
    world.drop_connections("worker")
    world.run(world.policy.quiet_s - 0.5)
    assert world.verdicts(since_s=since_s) == {Verdict.OK}
    world.run(2.0)
    assert world.history[-1][1].verdict is Verdict.DEGRADED


def test_an_external_service_that_is_down_reverts_nobody() -> None:
    """What is outside the stack may be blamed, but nothing is rolled back for it."""
    world = healthy()
    since_s = world.now_s
    world.broken.add("payments.example")
    world.run(40.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.culprits() == ["payments.example"]


def test_an_image_of_another_manifest_proves_nothing() -> None:
    """An intended change of the stack is inconclusive, whatever is missing."""
    world = shop().launch(fingerprint="f2")
    world.guard(learned())
    world.broken.add("db")
    world.run(60.0)
    assert world.verdicts() == {Verdict.INCONCLUSIVE}


def test_an_image_with_machines_that_the_stack_lacks_proves_nothing() -> None:
    """A document edited to know another machine is inconclusive, and breaks nothing."""
    image = learned()
    world = shop().launch()
    world.guard(msgspec.structs.replace(image, vcds=(*image.vcds, "stranger")))
    world.run(10.0)
    assert world.verdicts() == {Verdict.INCONCLUSIVE}


def test_an_engineer_with_a_shell_is_no_fault() -> None:
    """Unexpected calls that work degrade the verdict at most; nothing golden is wrong."""
    world = healthy()
    since_s = world.now_s
    world.add(Need("metrics", "db", 5432, style=Style.CALLS))
    world.run(20.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)


def test_a_program_that_was_started_anew_has_the_time_of_a_launch() -> None:
    """A program that is back at its port may take as long as after a launch until it calls on all that it needs."""
    world = healthy()
    since_s = world.now_s
    world.broken.add("api")
    world.drop_connections("api")
    world.run(2.0)
    world.broken.discard("api")
    world.hung.add("api")
    world.run(4.0)
    world.hung.discard("api")
    world.run(20.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)
    assert world.history[-1][1].verdict is Verdict.OK


def test_a_program_that_is_started_anew_again_and_again_is_found() -> None:
    """Listening again is forgiven a few times only."""
    world = healthy()
    for _ in range(8):
        world.broken.add("api")
        world.drop_connections("api")
        world.run(3.0)
        world.broken.discard("api")
        world.run(1.0)
    failed = [judgement for _, judgement in world.history if judgement.verdict is Verdict.FAILED]
    assert {suspect.name for one in failed for suspect in one.finding.culprits} == {"api"}


def test_what_an_engineer_tries_in_vain_replaces_no_call_of_the_program() -> None:
    """A worker that is idle is not pointed elsewhere because somebody tries a wrong port from its shell."""
    needs = [
        Need("app", "log", 514, style=Style.CALLS, period_s=0.5),
        Need("app", "db", 5432, style=Style.CALLS, eager=False),
    ]
    needs.append(Need("load", "app", 80, style=Style.CALLS))
    system = System(needs, vcds=["app", "db", "load", "log"], externals={})
    image = system.learn()
    on_demand = [msgspec.structs.replace(edge, kind=Kind.ON_DEMAND) for edge in image.edges]
    world = system.launch()
    world.guard(msgspec.structs.replace(image, edges=tuple(on_demand)))
    world.run(20.0)
    since_s = world.now_s
    world.needs[1].period_s = 1e6
    world.add(Need("app", "db", 22, style=Style.CALLS, command="ssh"))
    world.run(20.0)
    assert Verdict.FAILED not in world.verdicts(since_s=since_s)


def test_a_client_that_falls_silent_is_blamed_for_the_silence_behind_it() -> None:
    """When the client stops calling, the server that is quiet for want of calls is not blamed."""
    world = healthy()
    world.hung.add("client")
    world.hung.add("web")
    world.run(15.0)
    assert "web" not in world.culprits()


@pytest.mark.parametrize(
    ("reason", "fails"), [("LOSS_REASON_MAP_FULL", False), ("LOSS_REASON_RING_FULL", True)]
)
def test_lost_events_are_no_missing_edges(reason: str, fails: bool) -> None:
    """What an agent with a full table no longer reports may only be unseen; a full ring costs no count."""
    world = healthy()
    since_s = world.now_s
    world.hung.add("worker")
    world.drop_connections("worker")
    for _ in range(20):
        lost = {reason: int(world.now_s)}
        world.stack.losses(world.vcd("worker"), lost, now_s=world.now_s)
        world.run(1.0)
    assert (Verdict.FAILED in world.verdicts(since_s=since_s)) is fails
    assert fails or world.history[-1][1].verdict is Verdict.INCONCLUSIVE


def test_each_culprit_is_confirmed_for_itself() -> None:
    """While two faults are repaired one after the other, nobody else is blamed for what they leave behind."""
    for seed in range(5):
        world = shop().launch(seed=seed)
        world.guard(learned())
        world.run(25.0)
        world.broken |= {"client", "queue"}
        blamed: set[str] = set()
        while world.until(Verdict.FAILED, within_s=30.0) is not None:
            blamed |= set(world.culprits())
            for name in world.culprits():
                world.repair(name)
        assert blamed == {"client", "queue"}


def test_what_a_rule_tolerates_never_fails_a_stack() -> None:
    """With every call of the cache tolerated its crash is shown, and counts for nothing."""
    world = healthy()
    assert world.stack.image is not None
    rules = (Rule(action=Action.TOLERATE, target="cache"),)
    world.guard(msgspec.structs.replace(world.stack.image, rules=rules))
    since_s = world.now_s
    world.broken.add("cache")
    world.run(15.0)
    assert world.verdicts(since_s=since_s) <= {Verdict.OK, Verdict.LAUNCHING}
    assert world.stack.deviation is not None
    assert world.stack.deviation.states[EdgeState.TOLERATED] > 0


def test_what_a_rule_ignores_is_not_judged() -> None:
    """With every call of the cache ignored its edges are neither golden nor unexpected."""
    world = healthy()
    assert world.stack.image is not None
    rules = (Rule(action=Action.IGNORE, target="cache"),)
    world.guard(msgspec.structs.replace(world.stack.image, rules=rules))
    world.broken.add("cache")
    world.run(15.0)
    assert world.stack.deviation is not None
    assert not [key for key in world.stack.deviation.judged() if key.target == "cache"]


def test_a_launch_that_is_slow_as_a_whole_is_waited_for() -> None:
    """On a busy host everything is late together: deadlines stretch with the edges that came about so far."""
    usual = {name: 1.0 + 3.0 * number for number, name in enumerate(shop().launch().addresses)}
    world = shop().launch(seed=7, starts_s=usual)
    world.run(50.0)
    image = merge([world.stack.learn(smoke=True)] * 4)
    world = shop().launch(starts_s={name: 1.6 * at_s for name, at_s in usual.items()})
    world.guard(image)
    world.run(60.0)
    assert Verdict.FAILED not in world.verdicts()
    assert world.history[-1][1].verdict is Verdict.OK
