"""Well-known systems with faults and with noise: who is blamed, and that nobody is when nothing is broken."""

import pytest

from tests.bench.blame import break_one, healthy_launch
from tests.sim import faults
from tests.sim.systems import from_topology
from tests.sim.topology import Topology, load_all

TOPOLOGIES = load_all()
HEALTHY = 20


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
@pytest.mark.parametrize("cascade", [0.0, 1.0])
def test_a_crash_anywhere_is_blamed_on_whoever_crashed(topology: Topology, cascade: float) -> None:
    """Whichever service dies, and whether its callers fall with it or not, it alone is decided for."""
    system = from_topology(topology, seed=0)
    image = system.learn()
    for victim in system.vcds:
        outcome = break_one(system, image, "crash", faults.crash, victim, cascade=cascade, seed=3)
        assert outcome is not None
        assert outcome.blamed == (victim,), outcome
        assert outcome.decided_s is not None, outcome


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_nobody_is_rolled_back_in_launches_with_noise(topology: Topology) -> None:
    """Late starts within bounds, lost agents, restarts, outages outside and intended changes never end as failed."""
    system = from_topology(topology, seed=0)
    image = system.learn()
    assert not [seed for seed in range(HEALTHY) if healthy_launch(system, image, seed=seed)]
