"""Well-known systems with faults and with noise: who is blamed, and that nobody is when nothing is broken."""

import pytest

from dm.verdict import Verdict
from tests.sim.faults import ALL, OUTSIDE, SINGLE
from tests.sim.generate import generate
from tests.sim.systems import from_topology
from tests.sim.topology import Topology, load_all
from tests.sim.trial import Ground, break_one, healthy_launch

TOPOLOGIES = load_all()
HEALTHY = 20


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
@pytest.mark.parametrize("cascade", [0.0, 1.0])
def test_a_crash_anywhere_is_blamed_on_whoever_crashed(topology: Topology, cascade: float) -> None:
    """Whichever service dies, and whether its callers fall with it or not, it alone is decided for."""
    ground = Ground(from_topology(topology, seed=0), seed=3)
    for victim in ground.system.vcds:
        outcome = break_one(ground, "crash", SINGLE["crash"], victim, cascade=cascade)
        assert outcome is not None
        assert outcome.blamed == (victim,), outcome
        assert outcome.decided_s is not None, outcome


@pytest.mark.parametrize("name", ALL)
def test_every_fault_is_blamed_on_whom_it_is_due(name: str) -> None:
    """On a system of another kind, whatever is broken, one that is responsible is named first."""
    ground = Ground(from_topology(generate(14, services=24), seed=0), seed=5)
    victims = ground.victims(ALL[name])
    few = victims[:: max(1, len(victims) // 6)]
    outcomes = [break_one(ground, name, ALL[name], victim, cascade=0.5) for victim in few]
    seen = [outcome for outcome in outcomes if outcome is not None]
    assert seen, "no victim can have it"
    for outcome in seen:
        assert outcome.ranked[:1]
        assert outcome.ranked[0] in outcome.right, outcome
        if name in OUTSIDE:
            assert outcome.judgement.verdict is not Verdict.FAILED


@pytest.mark.parametrize("chance", [0.0, 0.5])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_nobody_is_rolled_back_in_launches_with_noise(topology: Topology, chance: float) -> None:
    """Late starts within bounds, lost agents, restarts, outages outside and intended changes never end as failed."""
    ground = Ground(from_topology(topology, seed=0, chance=chance), seed=0)
    assert not [seed for seed in range(HEALTHY) if healthy_launch(ground, seed=seed)]
