"""The verdict on a stack: is it whole, and if not, is it sure enough who is responsible to act on it. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from dm.blame import Facts, Finding, Symptom, blame
from dm.edge import EdgeKey
from dm.evidence import View, facts, symptoms
from dm.golden import Kind
from dm.states import EdgeState
from dm.vcd import DOWN

FAILURES_PROVE = 2
LASTING_SHARE = 2 / 3
"""How much of the confirmation window a failure has to span: who is back is not always tried, or looked at, again."""
RECONNECTS_S = 10.0
"""So long a connection that was lost has to be missed, unless something else is wrong as well."""
REASONS_SHOWN = 5
OVER_SHARE = 1 / 3
"""How much of the confirmation window the deviation itself has to last: who is accused may have been so for longer."""
NOBODY = Finding((), (), confident=True)


class Verdict(StrEnum):
    """The judgement of a stack."""

    LAUNCHING = "launching"
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Judgement(NamedTuple):
    """The verdict and everything that led to it. A VCD without ``vcd_deviation`` deviates by 0.

    ``fault_s`` is when the first deviating edge went wrong.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    deviation: float
    vcd_deviation: Mapping[str, float]
    finding: Finding = NOBODY
    symptoms: tuple[Symptom, ...] = ()
    fault_s: float | None = None


class Judge:
    """Judges one stack again and again, and remembers since when it deviates and whom it accuses."""

    def __init__(self) -> None:
        self._over_since_s: float | None = None
        self._accused_s: dict[str, float] = {}
        self._reached: Mapping[EdgeKey, Sequence[str]] = {}
        self._fault_s: float | None = None

    def acquit(self) -> None:
        """Nothing is wrong, or nothing is known: forget what was suspected."""
        self._over_since_s = self._fault_s = None
        self._accused_s, self._reached = {}, {}

    def confirmed_in_s(self, confirm_s: float, *, now_s: float) -> float | None:
        """Seconds until a deviation that is not confirmed yet may be; None when there is none."""
        if self._over_since_s is None:
            return None
        accused_s = max(self._accused_s.values(), default=self._over_since_s)
        left_s = max(self._over_since_s + OVER_SHARE * confirm_s, accused_s + confirm_s) - now_s
        return left_s if left_s > 0 else None

    def judge(self, view: View, *, now_s: float) -> Judgement:
        """The verdict now."""
        if view.deviation.wrong_edges:
            return self._judge_wrong(view, now_s)
        self.acquit()
        return _judge_whole(view)

    def _judge_wrong(self, view: View, now_s: float) -> Judgement:
        share, shares = view.deviation.stack(), view.deviation.vcds()
        found = symptoms(view)
        since_s = min(symptom.since_s for symptom in found)
        self._fault_s = since_s if self._fault_s is None else min(self._fault_s, since_s)
        known = facts(view, found, now_s=now_s, reached=self._reached)
        self._reached = known.reached
        finding = blame(found, known)
        policy = view.policy
        over = policy.exceeded(share, shares, already=self._over_since_s is not None)
        self._over_since_s = (self._over_since_s or now_s) if over else None
        # Each culprit has a window of its own: another one found in the meantime is confirmed anew.
        culprits = (suspect.name for suspect in finding.culprits)
        self._accused_s = {name: self._accused_s.get(name, now_s) for name in culprits}

        def judgement(verdict: Verdict, *because: str) -> Judgement:
            reasons = (f"{symptom.key}: {symptom.judged.reason}" for symptom in found)
            return Judgement(verdict, (*because, *reasons), share, shares, finding, found, self._fault_s)

        if held := _held(view, found, finding, now_s):
            # Once nobody holds it any more, what still deviates is confirmed anew.
            self.acquit()
            return judgement(Verdict.INCONCLUSIVE, f"{'; '.join(held)}: nothing is rolled back meanwhile")
        if self._over_since_s is None:
            return judgement(Verdict.DEGRADED, "the deviation is below the thresholds")
        if self.confirmed_in_s(policy.confirm_s, now_s=now_s) is not None:
            return judgement(Verdict.DEGRADED, f"not confirmed yet: it has to last {policy.confirm_s:.1f} s")
        if doubt := _doubt_of(view, found, known, now_s):
            return judgement(Verdict.INCONCLUSIVE, doubt)
        if finding.awaited:
            return judgement(Verdict.DEGRADED, f"{', '.join(finding.awaited)} started anew and is waited for")
        if all(suspect.external for suspect in finding.culprits):
            names = ", ".join(suspect.name for suspect in finding.culprits) or "whoever is responsible"
            return judgement(Verdict.INCONCLUSIVE, f"{names} is outside the stack")
        if not finding.confident:
            names = ", ".join(suspect.name for suspect in (*finding.culprits, *finding.others)[:3])
            return judgement(Verdict.INCONCLUSIVE, f"the evidence does not tell {names} apart: please look")
        return judgement(Verdict.FAILED)


def inconclusive(view: View | None, reasons: Sequence[str]) -> Judgement:
    """Too little is known for a verdict."""
    figures = (view.deviation.stack(), view.deviation.vcds()) if view else (0.0, {})
    return Judgement(Verdict.INCONCLUSIVE, tuple(reasons), *figures)


def _judge_whole(view: View) -> Judgement:
    deviation = view.deviation
    if doubts := _doubts(view):
        return inconclusive(view, doubts)
    share, shares, judged = deviation.stack(), deviation.vcds(), deviation.judged()
    if deviation.awaited:
        some = itertools.islice(deviation.awaited, REASONS_SHOWN)
        reasons = tuple(f"{key} is {judged[key].reason}" for key in some)
        return Judgement(Verdict.LAUNCHING, reasons, share, shares)
    if share > 0:
        unexpected = (
            f"{key} is not in the golden image" for key in deviation.unexpected if judged[key].counted
        )
        return Judgement(Verdict.DEGRADED, tuple(unexpected), share, shares)
    return Judgement(Verdict.OK, ("every golden edge is as it should be",), share, shares)


def _held(view: View, found: Sequence[Symptom], finding: Finding, now_s: float) -> list[str]:
    """Who of those that the symptoms are about is in somebody's hands, or was until just now, and how."""
    about = {end for symptom in found for end in (symptom.key.source, symptom.key.target)}
    about |= {suspect.name for suspect in finding.culprits}
    vcds = [view.vcds[name] for name in sorted(about) if name in view.vcds]
    return [f"{vcd.name} {why}" for vcd in vcds if (why := vcd.held or vcd.spared(now_s))]


def _doubt_of(view: View, found: Sequence[Symptom], known: Facts, now_s: float) -> str:
    """Why the symptoms do not suffice for an action, if they do not: one that is solid is enough."""
    doubts = [_doubt_of_one(view, symptom, known, now_s) for symptom in found]
    return doubts[0] if all(doubts) else ""


def _doubt_of_one(view: View, symptom: Symptom, known: Facts, now_s: float) -> str:
    if symptom.uncalled:
        return f"{symptom.key.source} is not called on itself"
    if symptom.untried:
        return f"{symptom.key} was never tried, but {symptom.key.source} is up: perhaps nothing asks for it"
    if symptom.judged.state is EdgeState.MISSING and (doubt := _doubt_of_missing(view, symptom, now_s)):
        return doubt
    if symptom.judged.state is not EdgeState.FAILING:
        missing_s = now_s - symptom.judged.since_s
        if symptom.judged.state is EdgeState.MISSING and missing_s < LASTING_SHARE * view.policy.confirm_s:
            return f"{symptom.key} has been missing for {missing_s:.1f} s only"
        return view.vcds[symptom.key.source].loss_doubt(now_s)
    return _doubt_of_failing(view, symptom, known, now_s)


def _doubt_of_missing(view: View, symptom: Symptom, now_s: float) -> str:
    """A client that has lost its connection may wait before it tries again, and so does one that is started anew."""
    key, live = symptom.key, view.graph.get(symptom.key)
    held = view.deviation.golden[key].kind is Kind.HELD and not view.vcds[key.source].why_down(now_s)
    if held and live is not None and live.seen_ok and now_s - (live.active_s() or 0.0) < RECONNECTS_S:
        return f"{key}: {key.source} may be about to connect again"
    return ""


def _doubt_of_failing(view: View, symptom: Symptom, known: Facts, now_s: float) -> str:
    key, live = symptom.key, view.graph.get(symptom.key)
    if key not in known.reached and (others := known.contacts.reached_by(key, since_s=symptom.until_s)):
        return f"{key}: not tried again since {', '.join(others)} got through"
    target = view.vcds.get(key.target)
    if target is not None and target.begun_s > symptom.until_s:
        return f"{key}: not tried again since {key.target} listens again"
    lasting_s = LASTING_SHARE * view.policy.confirm_s
    if symptom.deaf and view.vcds[key.target].deaf_for_s(key.door) >= lasting_s:
        return ""
    if live is None or not symptom.attempted:
        return f"{key.target} has only just ceased to listen" if symptom.deaf else ""
    stuck = live.oldest_pending_s is not None and now_s - live.oldest_pending_s >= view.policy.confirm_s
    if stuck or (live.failures_since_ok >= FAILURES_PROVE and live.failing_for_s() >= lasting_s):
        return ""
    tried = f"{live.failures_since_ok} failed attempts within {live.failing_for_s():.1f} s"
    return f"{key}: {tried} are no proof yet"


def _doubts(view: View) -> list[str]:
    vcds = view.doubtful.values()
    doubts = [f"the agent of {vcd.name} is silent" for vcd in vcds if vcd.seen_since_s is None]
    for vcd in vcds:
        if vcd.missing_probes:
            doubts.append(f"the agent of {vcd.name} lacks {', '.join(vcd.missing_probes)}")
        if vcd.held:
            doubts.append(f"{vcd.name} {vcd.held}")
        elif vcd.power in DOWN:
            doubts.append(f"{vcd.name} is {vcd.power}, and nothing calls on it")
    return doubts
