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

_FOLLOWS = {
    Verdict.LAUNCHING: "nothing is wrong so far, and not every edge is due yet",
    Verdict.DEGRADED: "something deviates, but not by enough or not for long enough: nothing is rolled back",
    Verdict.FAILED: "the deviation has lasted, and the evidence says who is responsible",
    Verdict.INCONCLUSIVE: "too little is known to act on it: nothing is rolled back until that is over",
}


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


def explain(
    stack: Stack, judgement: Judgement, *, now_s: float, outlook: str = "", about: str = ""
) -> Explanation:
    """What the verdict follows from.

    ``outlook`` says what is done about it, if anything can be said; ``about`` leaves only the edges of one VCD.
    """
    edges = tuple(_edges(stack.deviation, stack.spec.policy, about)) if stack.deviation else ()
    return Explanation(judgement.verdict, tuple(_sentences(stack, judgement, outlook, now_s)), edges)


def _sentences(stack: Stack, judgement: Judgement, outlook: str, now_s: float) -> Iterator[str]:
    yield from judgement.reasons
    deviation = stack.deviation
    if judgement.verdict is Verdict.DEGRADED and deviation is not None and not deviation.wrong_edges:
        yield "only what is not in the image deviates, which alone is no failure: nothing is rolled back"
    elif follows := _FOLLOWS.get(judgement.verdict):
        yield follows
    if outlook:
        yield outlook
    if deviation is None:
        return
    if (left_s := stack.confirmed_in_s(now_s=now_s)) is not None:
        yield f"a threshold is exceeded; if it stays so for {left_s:.1f} s more, it is believed"
    yield from _suspicions(judgement)
    yield from _shares(deviation, judgement, stack.spec.policy)
    if deviation.pace.factor > 1:
        yield f"this launch is slow as a whole: its deadlines are stretched by {deviation.pace.factor:.1f}"
    image = deviation.image
    smoke = "with" if image.smoke else "without"
    yield (
        f"golden image {image.id} was learned from {_launches(image.runs)}, {smoke} a smoke workload: an edge that is "
        f"not in it may still be part of {unseen_share(image.runs):.0%} of launches (95 % sure)"
    )


def _suspicions(judgement: Judgement) -> Iterator[str]:
    finding = judgement.finding
    for suspect in finding.culprits:
        said = "is responsible" if judgement.verdict is Verdict.FAILED else "is suspected"
        where = ", which is outside the stack and cannot be taken back" if suspect.external else ""
        yield f"{suspect.name} {said} (score {suspect.score:.2f}){where}: {'; '.join(suspect.evidence)}"
    if finding.culprits and not finding.confident:
        yield "the evidence does not tell the suspects apart, so a person has to look"


def _shares(deviation: Deviation, judgement: Judgement, policy: Policy) -> Iterator[str]:
    """How far the stack and its VCDs deviate, the worst first, each against its threshold."""
    strange = sum(deviation.judged()[key].counted for key in deviation.unexpected)
    edges = f"{deviation.wrong_edges} of {len(deviation.golden)} golden edges"
    edges += f", and {strange} that {'is' if strange == 1 else 'are'} not in the image" if strange else ""
    against = _against(judgement.deviation, policy.stack_threshold, policy)
    yield f"the stack deviates by {_percent(judgement.deviation)} ({edges}), {against}"
    for vcd, share in sorted(judgement.vcd_deviation.items(), key=lambda item: (-item[1], item[0])):
        if share:
            against = _against(share, policy.threshold(vcd), policy)
            yield f"{vcd} deviates by {_percent(share)} of its own edges, {against}"


def _against(share: float, threshold: float, policy: Policy) -> str:
    over = (1 - policy.hysteresis) * threshold
    if share > threshold:
        return f"above its threshold of {_percent(threshold)}"
    again = f" (once above, it is over at {_percent(over)})" if share > over else ""
    return f"not above its threshold of {_percent(threshold)}{again}"


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
    seen = f"seen in {golden.runs} of {_launches(image.runs)}"
    times = [time / 1000 for time in golden.established_ms]
    when = f", {_span(times)} after the begin" if times else ""
    yield f"{image.class_of(golden)}: {seen}{when}"
    if golden.after:
        yield f"always worked after {', '.join(golden.after)}"
    if not image.required(golden):
        yield "not every launch had it, so it can fail or lead elsewhere, but not be missing, unless a rule pins it"
        return
    if not deviation.has_to_be(golden.key):
        yield "only calls bring it, so it can fail or lead elsewhere, but not be missing"
        return
    few = f", times 1 + 1/{len(times)} for so few launches," if times else ""
    yield (
        f"due {golden.deadline_s(policy.slack_s):.1f} s after its ends have started: {max(times, default=0):.1f} s as "
        f"learned{few} plus {policy.slack_s:g} s of slack"
    )
    lasts = "is open" if golden.kind is Kind.HELD else "is attempted"
    yield f"missing when nothing {lasts} for {golden.rhythm_s(policy.quiet_s):.1f} s"


def _launches(runs: int) -> str:
    return f"{runs} launch{'es' if runs != 1 else ''}"


def _span(times_s: list[float]) -> str:
    least, most = min(times_s), max(times_s)
    return f"{most:.1f} s" if least == most else f"{least:.1f} to {most:.1f} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "%"
