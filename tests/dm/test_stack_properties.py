"""What holds for any reports whatever."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from dm.edge import Address, EdgeKey, Failure, Flow, FlowKey, Transport
from dm.golden import GoldenImage
from dm.policy import Policy
from dm.stack import Spec, Stack
from dm.states import EdgeState

VCDS = "abcd"
LAUNCH_S, LEARNED_S, NOW_S = 100.0, 160.0, 200.0


class Call(NamedTuple):
    """What one agent says of one destination; ``target`` is a VCD, or else outside."""

    source: str
    target: str
    transport: Transport
    port: int
    command: str
    established: int
    open: int
    refused: int
    at_s: float

    def flow(self) -> Flow:
        """As it is reported."""
        return Flow(
            names=(),
            attempts=self.established + self.refused,
            established=self.established,
            open=min(self.open, self.established),
            pending=0,
            failures={Failure.REFUSED: self.refused} if self.refused else {},
            first_seen_s=LAUNCH_S + 1,
            last_attempt_s=self.at_s,
            last_established_s=self.at_s - 0.5 * bool(self.refused) if self.established else None,
            last_failure_s=self.at_s if self.refused else None,
            oldest_pending_s=None,
        )


CALLS = st.lists(
    st.builds(
        Call,
        st.sampled_from(VCDS),
        st.sampled_from([*VCDS, "x"]),
        st.sampled_from(Transport),
        st.sampled_from([80, 81]),
        st.sampled_from(["p", "q"]),
        st.integers(0, 5),
        st.integers(0, 2),
        st.integers(0, 3),
        st.floats(LAUNCH_S + 2, LEARNED_S - 1),
    ).filter(lambda call: call.source != call.target and call.established + call.refused > 0),
    unique_by=lambda call: call[:5],
    min_size=1,
    max_size=12,
)
ADDRESSES = st.permutations([IPv4Address(f"198.18.0.{number}") for number in range(1, 9)])


def stack(addresses: Sequence[Address], image: GoldenImage | None) -> Stack:
    """A stack whose agents have all said hello; the last of the addresses is outside."""
    declared = {vcd: (address,) for vcd, address in zip(VCDS, addresses, strict=False)}
    made = Stack(Spec("s", "f", declared, Policy(), "launch", LAUNCH_S), generations={}, now_s=LAUNCH_S)
    made.use_image(image, now_s=LAUNCH_S)
    for vcd in made.vcds.values():
        made.hello(vcd, session="s", probes=(), now_s=LAUNCH_S)
        made.edges(vcd, (), complete=True, now_s=LAUNCH_S)
    return made


def report(to: Stack, calls: Sequence[Call], addresses: Sequence[Address], *, now_s: float) -> None:
    """Each call in a message of its own."""
    place = dict(zip(VCDS, addresses, strict=False)) | {"x": addresses[-1]}
    for call in calls:
        key = FlowKey(call.source, call.transport, place[call.target], call.port, call.command)
        to.edges(to.vcds[call.source], [(key, call.flow())], complete=False, now_s=now_s)
    for vcd in to.vcds.values():
        to.heard(vcd, now_s=now_s)


def states(of: Stack) -> Mapping[EdgeKey, EdgeState]:
    """How the golden edges stand."""
    assert of.deviation is not None
    return {key: of.deviation.judged()[key].state for key in of.deviation.golden}


def learned(calls: Sequence[Call], addresses: Sequence[Address]) -> GoldenImage | None:
    """The image of a launch in which these calls work; None when none of them can be learned."""
    good = [call._replace(established=max(1, call.established), refused=0) for call in calls]
    made = stack(addresses, None)
    report(made, good, addresses, now_s=LEARNED_S)
    return made.learn(smoke=True)


@given(CALLS, ADDRESSES, st.randoms(use_true_random=False))
def test_order_and_repetition_of_reports_change_nothing(
    calls: list[Call], addresses: list[Address], random: Random
) -> None:
    """Reports are cumulative: twice, and in any order, they lead to the same states, verdict and culprits."""
    image = learned(calls, addresses)
    straight, mixed = stack(addresses, image), stack(addresses, image)
    twice = calls * 2
    random.shuffle(twice)
    report(straight, calls, addresses, now_s=NOW_S)
    report(mixed, twice, addresses, now_s=NOW_S)
    one, other = straight.judge(now_s=NOW_S), mixed.judge(now_s=NOW_S)
    assert states(straight) == states(mixed)
    assert (one.verdict, one.deviation) == (other.verdict, other.deviation)
    assert [suspect.name for suspect in one.finding.culprits] == [
        suspect.name for suspect in other.finding.culprits
    ]


@given(CALLS, ADDRESSES, ADDRESSES)
def test_other_addresses_change_nothing(
    calls: list[Call], before: list[Address], after: list[Address]
) -> None:
    """A stack whose machines have other addresses than when its image was learned is judged as if they had not."""
    image = learned([call for call in calls if call.target in VCDS] or calls[:1], before)
    same, moved = stack(before, image), stack(after, image)
    report(same, calls, before, now_s=NOW_S)
    report(moved, calls, after, now_s=NOW_S)
    inside = {key for key in states(same) if key.target in VCDS}
    assert {key: states(same)[key] for key in inside} == {key: states(moved)[key] for key in inside}


@given(CALLS, ADDRESSES)
def test_a_graph_equal_to_its_image_deviates_by_nothing(calls: list[Call], addresses: list[Address]) -> None:
    """A launch held against what was learned from it deviates by 0, as a whole and VCD by VCD."""
    good = [call._replace(established=max(1, call.established), refused=0) for call in calls]
    made = stack(addresses, None)
    report(made, good, addresses, now_s=LEARNED_S)
    made.use_image(made.learn(smoke=True), now_s=LEARNED_S)
    judgement = made.judge(now_s=LEARNED_S)
    assert judgement.deviation == 0.0
    assert not judgement.vcd_deviation
