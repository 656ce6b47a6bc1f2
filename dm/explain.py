"""Why a stack is judged as it is, in plain sentences, edge by edge. Pure: the clock is passed in."""

from collections.abc import Iterator
from typing import NamedTuple

from dm.deviation import Deviation
from dm.edge import EdgeKey
from dm.golden import GoldenEdge, Kind
from dm.learning import unseen_share
from dm.policy import Policy
from dm.rules import rule_for
from dm.stack import Stack
from dm.states import EdgeState
from dm.verdict import Judgement, Verdict


class Knob(NamedTuple):
    """A setting that the verdict depends on, by its place in the manifest."""

    name: str
    value: str
    meaning: str


class EdgeReasons(NamedTuple):
    """One edge: its state, whether it counts, and the sentences that say why."""

    key: EdgeKey
    state: EdgeState
    counts: bool
    sentences: tuple[str, ...]


class Explanation(NamedTuple):
    """The verdict and all that it follows from."""

    verdict: Verdict
    sentences: tuple[str, ...]
    edges: tuple[EdgeReasons, ...]
    knobs: tuple[Knob, ...]


def explain(stack: Stack, judgement: Judgement, *, about: str = "") -> Explanation:
    """What the verdict follows from; ``about`` leaves only the edges of one VCD."""
    edges = tuple(_edges(stack.deviation, stack.spec.policy, about)) if stack.deviation else ()
    return Explanation(
        judgement.verdict, tuple(_sentences(stack, judgement)), edges, _knobs(stack.spec.policy)
    )


def _sentences(stack: Stack, judgement: Judgement) -> Iterator[str]:
    policy = stack.spec.policy
    yield from judgement.reasons
    if (deviation := stack.deviation) is None:
        return
    image = deviation.image
    smoke = "with" if image.smoke else "without"
    yield (
        f"golden image {image.id}, of {_launches(image.runs)} {smoke} a smoke workload: an edge that is not in it may "
        f"still be part of {unseen_share(image.runs):.0%} of launches"
    )
    golden = len(deviation.golden)
    yield (
        f"the stack deviates by {judgement.deviation:.0%} ({deviation.wrong_edges} of {golden} golden edges), "
        f"and fails above {policy.stack_threshold:.0%}"
    )
    if deviation.pace.factor > 1:
        yield f"this launch is slow as a whole: its deadlines are stretched by {deviation.pace.factor:.1f}"
    for vcd, share in sorted(judgement.vcd_deviation.items()):
        if share:
            yield f"{vcd} deviates by {share:.0%} of its own edges, and fails above {policy.threshold(vcd):.0%}"
    finding = judgement.finding
    for suspect in finding.culprits:
        where = ", which is outside the stack and cannot be taken back" if suspect.external else ""
        yield f"{suspect.name} is responsible (score {suspect.score:.2f}){where}: {'; '.join(suspect.evidence)}"
    if finding.culprits and not finding.confident:
        yield "the evidence does not tell the suspects apart, so a person has to look"


def _edges(deviation: Deviation, policy: Policy, about: str) -> Iterator[EdgeReasons]:
    for key, judged in sorted(deviation.judged().items()):
        if about in ("", key.source, key.target):
            golden = deviation.golden.get(key)
            sentences = [judged.reason]
            if golden is not None:
                sentences += _expectation(deviation, golden, policy)
            if (rule := rule_for(deviation.image.rules, key)) is not None:
                sentences.append(f"a rule says: {rule}")
            if golden is None and not judged.counted and judged.state is EdgeState.UNEXPECTED:
                sentences.append("it leads outside the stack, so it does not count by itself")
            yield EdgeReasons(key, judged.state, judged.counted, tuple(sentences))


def _expectation(deviation: Deviation, golden: GoldenEdge, policy: Policy) -> Iterator[str]:
    image = deviation.image
    times = [time / 1000 for time in golden.established_ms]
    seen = f"seen in {golden.runs} of {_launches(image.runs)}"
    when = f", established {_span(times)} after their begin" if times else ""
    yield f"{image.class_of(golden)}: {seen}{when}"
    if golden.after:
        yield f"always worked after {', '.join(golden.after)}"
    if not deviation.has_to_be(golden.key):
        yield "only calls bring it, so it can fail or lead elsewhere, but not be missing"
        return
    yield f"due {golden.deadline_s(policy.slack_s):.1f} s after the start of its ends"
    if golden.kind is Kind.HELD:
        yield f"gone when nothing is open for {golden.rhythm_s(policy.quiet_s):.1f} s"
    else:
        yield f"gone when nothing is attempted for {golden.rhythm_s(policy.quiet_s):.1f} s"


def _knobs(policy: Policy) -> tuple[Knob, ...]:
    own = (
        Knob(f"judge.vcd_thresholds.{vcd}", f"{share:g}", f"the same for {vcd}")
        for vcd, share in sorted(policy.vcd_thresholds.items())
    )
    return (
        Knob(
            "judge.stack_threshold",
            f"{policy.stack_threshold:g}",
            "share of edges above which the stack fails",
        ),
        Knob(
            "judge.vcd_threshold",
            f"{policy.vcd_threshold:g}",
            "share of its own edges above which a VCD fails",
        ),
        *own,
        Knob(
            "judge.hysteresis",
            f"{policy.hysteresis:g}",
            "how far below a threshold it is over, as a share",
        ),
        Knob("judge.confirm_s", f"{policy.confirm_s:g}", "seconds that a deviation has to last"),
        Knob("judge.launch_slack_s", f"{policy.slack_s:g}", "seconds added to what was learned"),
        Knob(
            "judge.count_external",
            str(policy.count_external).lower(),
            "whether new calls to the outside count",
        ),
    )


def _launches(runs: int) -> str:
    return f"{runs} launch{'es' if runs != 1 else ''}"


def _span(times_s: list[float]) -> str:
    least, most = min(times_s), max(times_s)
    return f"{most:.1f} s" if least == most else f"{least:.1f} to {most:.1f} s"
