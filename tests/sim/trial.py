"""One fault or one launch with noise, played from its beginning to the verdict."""

import copyreg
import pickle
import random
from types import MappingProxyType
from typing import NamedTuple

from dm.golden import GoldenImage
from dm.verdict import Judgement, Verdict
from tests.sim.faults import Fault
from tests.sim.systems import LAUNCH_S, System
from tests.sim.world import World

DECIDE_WITHIN_S = 45.0
MOST_REPAIRS = 6
NOISES = ("none", "late", "agent", "losses", "manager", "outside", "change", "restart", "service", "lag")


def read_only(mapping: dict[str, float]) -> MappingProxyType[str, float]:
    """As they stand in specifications; pickle, by which worlds are copied, has to be told how to make one."""
    return MappingProxyType(mapping)


copyreg.pickle(MappingProxyType, lambda proxy: (read_only, (dict(proxy),)))


class Outcome(NamedTuple):
    """One fault's end.

    For faults at once, ``in_turn`` are all that were decided for while those decided for first are repaired, and
    ``named`` these and who is suspected in the end, though it is not decided.

    ``decided_s`` counts from the fault, or from the launch's begin when it was there from the beginning; so does
    ``refused_s``, the first refused attempt. ``bound_s`` is the learned time by which it has to be decided.
    """

    fault: str
    cascade: float
    victim: str
    right: frozenset[str]
    together: bool
    judgement: Judgement
    in_turn: tuple[str, ...]
    named: tuple[str, ...]
    decided_s: float | None
    refused_s: float | None
    bound_s: float | None

    @property
    def blamed(self) -> tuple[str, ...]:
        """The culprits."""
        return tuple(suspect.name for suspect in self.judgement.finding.culprits)

    @property
    def ranked(self) -> tuple[str, ...]:
        """The culprits, and those less likely behind them."""
        return self.blamed + tuple(suspect.name for suspect in self.judgement.finding.others)


class Ground:
    """A system with its image; what all faults of one launch have in common is played once."""

    def __init__(self, system: System, *, seed: int) -> None:
        self.system = system
        self.seed = seed
        self.image: GoldenImage = system.learn(seed=1_000_000 * (seed + 1))
        self._launched: dict[float, bytes] = {}
        self.unwell: dict[float, Judgement] = {}
        """Healthy launches that were not judged whole, by cascade: what is played on them proves little."""

    def launched(self, *, cascade: float) -> World:
        """A guarded launch in which everything runs."""
        if cascade not in self._launched:
            world = self.begun(cascade=cascade)
            judgement = world.run(LAUNCH_S)
            if judgement.verdict is not Verdict.OK:
                self.unwell[cascade] = judgement
            del world.history[:-1]
            self._launched[cascade] = pickle.dumps(world)
        world = pickle.loads(self._launched[cascade])
        assert isinstance(world, World)
        return world

    def begun(self, *, cascade: float) -> World:
        """A guarded launch that has just begun."""
        world = self.system.launch(seed=self.seed, cascade=cascade)
        world.guard(self.image)
        return world

    def victims(self, fault: Fault) -> list[str]:
        """Who can have a fault."""
        return sorted(self.system.externals) if fault.outside else self.system.vcds


def break_one(ground: Ground, name: str, fault: Fault, victim: str, *, cascade: float) -> Outcome | None:
    """One fault, and what came of it; None when this victim cannot have it."""
    choose = random.Random(f"{name} {victim} {cascade} {ground.seed}")
    world = ground.begun(cascade=cascade) if fault.at_launch else ground.launched(cascade=cascade)
    world.first_refused_s, begin_s = None, world.now_s
    injected = fault.inject(world, victim, choose)
    if injected is None:
        return None
    bound_s = _bound_s(world, name, victim)
    took_s = world.until(Verdict.FAILED, within_s=max(DECIDE_WITHIN_S, (bound_s or 0.0) + 10.0))
    judgement = world.history[-1][1]
    in_turn = repair_in_turn(world) if injected.together else ()
    return Outcome(
        name,
        cascade,
        victim,
        injected.culprits,
        injected.together,
        judgement,
        in_turn,
        tuple(dict.fromkeys((*in_turn, *world.culprits()))),
        None if took_s is None else world.history[-1][0] - begin_s if not injected.together else took_s,
        None if world.first_refused_s is None else world.first_refused_s - begin_s,
        bound_s,
    )


def repair_in_turn(world: World) -> tuple[str, ...]:
    """Repair whoever is blamed until nothing is; returns all that were."""
    blamed: list[str] = []
    while world.history[-1][1].verdict is Verdict.FAILED and len(blamed) < MOST_REPAIRS:
        culprits = world.culprits()
        blamed += culprits
        for name in culprits:
            world.repair(name)
        world.until(Verdict.FAILED, within_s=DECIDE_WITHIN_S)
    return tuple(dict.fromkeys(blamed))


def _bound_s(world: World, name: str, victim: str) -> float | None:
    """By when it has to be decided, by what was learned: a launch's deadline, or the rhythm of who falls silent."""
    policy, deviation = world.policy, world.stack.deviation
    assert deviation is not None
    held_to = [deviation.golden[key] for key in deviation.touching(victim) if deviation.has_to_be(key)]
    if name == "start beyond its bound":
        return max((edge.deadline_s(policy.slack_s) for edge in held_to), default=0.0) + policy.confirm_s
    if name == "hang":
        calls = (edge.rhythm_s(policy.slack_s) for edge in held_to if edge.source == victim)
        return max(calls, default=0.0)
    return None


def healthy_launch(ground: Ground, *, seed: int) -> bool:
    """One launch in which nothing is broken that a rollback could mend; returns whether it was judged failed."""
    choose = random.Random(f"healthy {seed}")
    noise, system = choose.choice(NOISES), ground.system
    starts_s = {}
    if noise == "late":
        # Within what was learned: every image has seen starts of up to 1.5 s, and allows a third more and the slack.
        starts_s = {choose.choice(system.vcds): choose.uniform(1.5, 5.0)}
    world = system.launch(seed=seed, starts_s=starts_s, fingerprint="f2" if noise == "change" else "f1")
    world.guard(ground.image)
    world.run(choose.uniform(5.0, 20.0))
    victim = choose.choice(world.vcds)
    _make_noise(world, noise, victim, choose)
    world.run(20.0)
    if noise == "agent":
        world.connect(victim)
    world.run(10.0)
    return Verdict.FAILED in world.verdicts()


def _make_noise(world: World, noise: str, victim: str, choose: random.Random) -> None:
    match noise:
        case "agent":
            world.disconnect(victim)
        case "losses":
            world.lossy.add(victim)
            world.blind.add(victim)
        case "manager":
            world.replace_manager()
        case "outside":
            world.broken |= set(world.externals)
        case "change":
            world.broken.add(victim)
        case "restart":
            world.restart(victim, down_s=choose.uniform(0.5, 4.0))
        case "lag":
            world.lag_s = 2.0
        case "service":
            # As by systemd, within what is confirmed before anything is done.
            world.broken.add(victim)
            world.drop_connections(victim)
            world.run(choose.uniform(0.25, 1.5))
            world.broken.discard(victim)
