"""How golden images come about."""

from dm.learning import learn
from tests.sim.systems import shop


class Unsearchable(tuple[str, ...]):
    """Names that nobody looks through for one of them."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        raise AssertionError(f"{name} was searched among all VCDs")


def test_learning_does_not_search_all_machines_for_each_edge() -> None:
    """What an image costs grows with the stack, and not with its square."""
    world = shop().launch()
    world.run(25.0)
    vcds = Unsearchable(world.stack.vcds)
    image = learn(world.stack.graph, stack="shop", fingerprint="f", vcds=vcds, launch_s=0.0, smoke=True)
    assert [edge.key for edge in image.edges] == [edge.key for edge in world.stack.learn(smoke=True).edges]
