"""Who is responsible: the smallest set of nodes that explains every deviating edge, with the evidence. Pure.

Each deviating edge u → v speaks, with a weight, for its caller, for its target, or for what the target itself needs
first and cannot reach (it is then explained away). Culprits are chosen greedily by the weight that they explain, the
classical approximation of the smallest set cover.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import networkx as nx

from dm.deviation import EdgeState, Judged
from dm.edge import EdgeKey, Failure

EXPLAINS = 0.3
"""Weight from which a culprit accounts for an edge."""

SUFFERS, CAUSES = 0.25, 0.7
"""What remains of the weight of a node that only suffers, and what goes to its cause instead."""

CLEAR = 0.8
"""Weight of its target from which a failing call explains its caller's own failures."""

CONFIDENT = 0.25
"""How far ahead of the next explanation the first must be, as a share of what it explains."""


class Symptom(NamedTuple):
    """A deviating golden edge with what is known beside its state.

    ``uncalled``: its source calls nobody, and none of those that should call on the source does.
    """

    key: EdgeKey
    judged: Judged
    kinds: frozenset[Failure]
    since_s: float
    pending: bool
    uncalled: bool


class Contact(NamedTuple):
    """What one live edge proves of its ends. Times are of the last proof; -inf is never."""

    key: EdgeKey
    established_s: float
    refused_s: float
    open: bool


class Facts(NamedTuple):
    """What is known of the nodes. ``contacts`` are the live edges of every end of a symptom.

    ``excused`` are edges that fail but are not due: a node that suffers from one of them has to be waited for.
    """

    vcds: frozenset[str]
    down: Mapping[str, str]
    silent: frozenset[str]
    contacts: Mapping[str, Sequence[Contact]]
    excused: Sequence[EdgeKey] = ()


class Suspect(NamedTuple):
    """A node that may be responsible. ``score`` is the share of the deviating edges' weight that it explains."""

    name: str
    external: bool
    score: float
    evidence: tuple[str, ...]


class Finding(NamedTuple):
    """The culprits, the runners-up behind them, and whether the distance between them allows a decision."""

    culprits: tuple[Suspect, ...]
    others: tuple[Suspect, ...]
    confident: bool


Speaks = dict[str, tuple[float, str]]
"""What one edge says: for each node a weight and the sentence for it."""


def blame(symptoms: Sequence[Symptom], facts: Facts) -> Finding:
    """Find who explains the symptoms; empty without symptoms."""
    speaks = {symptom.key: _speak(symptom, facts) for symptom in symptoms}
    _explain_away(symptoms, speaks, facts)
    open_edges = {key: says for key, says in speaks.items() if says}
    culprits: list[str] = []
    confident = True
    while open_edges:
        ranking = _rank(open_edges)
        (first, best), runners = ranking[0], ranking[1:]
        culprits.append(first)
        left = {key: says for key, says in open_edges.items() if says.get(first, (0.0, ""))[0] < EXPLAINS}
        if len(left) == len(open_edges):
            confident = False
            break
        confident = confident and _is_ahead(first, best, runners, open_edges, left)
        open_edges = left
    total = max(
        sum(max((weight for weight, _ in says.values()), default=0.0) for says in speaks.values()), 1e-9
    )
    suspects = [_suspect(name, score / total, speaks, facts) for name, score in _rank(speaks)]
    by_name = {suspect.name: suspect for suspect in suspects}
    chosen = tuple(by_name[name] for name in culprits)
    return Finding(chosen, tuple(suspect for suspect in suspects if suspect not in chosen), confident)


def _is_ahead(
    first: str,
    best: float,
    runners: Sequence[tuple[str, float]],
    edges: Mapping[EdgeKey, Speaks],
    left: Mapping[EdgeKey, Speaks],
) -> bool:
    """Whether nobody else explains what the first explains nearly as well."""
    covered = [says for key, says in edges.items() if key not in left]
    for name, _ in runners:
        rival = sum(says.get(name, (0.0, ""))[0] for says in covered)
        if rival > (1 - CONFIDENT) * sum(says.get(first, (0.0, ""))[0] for says in covered):
            return False
    return best > 0


def _rank(speaks: Mapping[EdgeKey, Speaks]) -> list[tuple[str, float]]:
    totals: dict[str, float] = {}
    for says in speaks.values():
        for name, (weight, _) in says.items():
            totals[name] = totals.get(name, 0.0) + weight
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def _suspect(name: str, score: float, speaks: Mapping[EdgeKey, Speaks], facts: Facts) -> Suspect:
    said = sorted(
        (says[name] for says in speaks.values() if name in says and says[name][0] >= EXPLAINS),
        key=lambda item: -item[0],
    )
    return Suspect(
        name, name not in facts.vcds, min(score, 1.0), tuple(dict.fromkeys(text for _, text in said))
    )


def _speak(symptom: Symptom, facts: Facts) -> Speaks:
    caller, target = symptom.key.source, symptom.key.target
    for name in (target, caller):
        if name in facts.down:
            return {name: (1.0, f"{name} {facts.down[name]}")}
    match symptom.judged.state:
        case EdgeState.RETARGETED:
            return {
                caller: (0.97, symptom.judged.reason),
                target: (0.03, f"{caller} no longer calls {target}"),
            }
        case EdgeState.MISSING:
            return {} if symptom.uncalled else _speak_missing(symptom, facts)
        case _:
            return _speak_failing(symptom, facts)


def _speak_failing(symptom: Symptom, facts: Facts) -> Speaks:
    key, since_s = symptom.key, symptom.since_s
    caller, target = key.source, key.target
    fails = f"{key}: {symptom.judged.reason}"
    reach = {
        contact.key.source for contact in facts.contacts[target] if _same_door(contact, key, since_s)
    } - {caller}
    if reach:
        reached = f"{caller} cannot reach {target}:{key.port}, but {', '.join(sorted(reach))} can"
        return {caller: (0.9, reached), target: (0.1, fails)}
    if target in facts.silent:
        return {target: (0.97, f"{fails}, and the agent of {target} is silent"), caller: (0.03, fails)}
    if Failure.REFUSED in symptom.kinds and not symptom.pending:
        return {target: (0.95, fails), caller: (0.05, fails)}
    return _speak_unanswered(symptom, facts, fails)


def _speak_unanswered(symptom: Symptom, facts: Facts, fails: str) -> Speaks:
    """Nothing comes back: one of the two machines is cut off, more likely the one that is in touch with nobody else."""
    caller, target = symptom.key.source, symptom.key.target
    ours = _in_touch(caller, target, facts, symptom.since_s)
    theirs = _in_touch(target, caller, facts, symptom.since_s)
    weight = {-2: 0.9, -1: 0.75, 0: 0.5, 1: 0.25, 2: 0.1}[theirs - ours]
    for_target = f"{fails}, while {caller} is in touch with others" if ours > theirs else fails
    for_caller = f"{fails}, while {target} is in touch with others" if theirs > ours else fails
    return {target: (weight, for_target), caller: (1 - weight, for_caller)}


def _in_touch(name: str, besides: str, facts: Facts, since_s: float) -> int:
    """2 when an answer has gone to or come from somebody else since, 1 when a connection is merely open, else 0."""
    others = [one for one in facts.contacts[name] if besides not in (one.key.source, one.key.target)]
    if any(max(contact.established_s, contact.refused_s) > since_s for contact in others):
        return 2
    return 1 if any(contact.open for contact in others) else 0


def _speak_missing(symptom: Symptom, facts: Facts) -> Speaks:
    caller, target = symptom.key.source, symptom.key.target
    gone = f"{symptom.key}: {symptom.judged.reason}"
    if target in facts.silent:
        return {caller: (0.5, gone), target: (0.5, f"{gone}, and the agent of {target} is silent")}
    return {caller: (0.8, gone), target: (0.2, gone)}


def _same_door(contact: Contact, key: EdgeKey, since_s: float) -> bool:
    same = (contact.key.target, contact.key.transport, contact.key.port) == (
        key.target,
        key.transport,
        key.port,
    )
    return same and (contact.open or contact.established_s > since_s)


def _explain_away(symptoms: Sequence[Symptom], speaks: dict[EdgeKey, Speaks], facts: Facts) -> None:
    """Move weight from a node that only suffers from what it needs to the roots of its suffering.

    Needs may be circular: the condensation is acyclic, and its sinks are the roots.
    """
    needs: nx.DiGraph[str] = nx.DiGraph()
    for symptom in symptoms:
        key = symptom.key
        clear = speaks[key].get(key.target, (0.0, ""))[0] >= CLEAR
        if clear and (symptom.judged.state is EdgeState.FAILING or key.target in facts.down):
            needs.add_edge(key.source, key.target)
    needs.add_edges_from((key.source, key.target) for key in facts.excused)
    roots = _roots(needs)
    for symptom in symptoms:
        key, says = symptom.key, speaks[symptom.key]
        if not says or symptom.judged.state is EdgeState.RETARGETED:
            continue
        sufferer = max(says, key=lambda name: says[name][0])
        above = roots.get(sufferer, frozenset()) - {sufferer}
        own_call = sufferer == key.source and symptom.judged.state is EdgeState.FAILING
        if sufferer in facts.down or not above or own_call:
            continue
        weight, text = says[sufferer]
        says[sufferer] = (SUFFERS * weight, text)
        for root in above:
            old = says.get(root, (0.0, ""))[0]
            follows = f"{sufferer} suffers from {root} ({key} follows from it)"
            says[root] = (max(old, CAUSES * weight), follows)
    _excuse(symptoms, speaks)


def _excuse(symptoms: Sequence[Symptom], speaks: dict[EdgeKey, Speaks]) -> None:
    """Who calls nobody because nobody calls on it follows whoever is to blame for that."""
    uncalled = [symptom.key for symptom in symptoms if symptom.uncalled]
    inbound: dict[str, list[EdgeKey]] = {}
    for symptom in symptoms:
        inbound.setdefault(symptom.key.target, []).append(symptom.key)
    waiting = list(uncalled)
    while waiting:
        left = []
        for key in waiting:
            causes = [speaks[other] for other in inbound.get(key.source, ()) if speaks[other]]
            if not causes:
                left.append(key)
            for says in causes:
                cause = max(says, key=lambda name: says[name][0])
                speaks[key][cause] = (CAUSES, f"{key.source} calls nobody, since nobody calls on it")
        if len(left) == len(waiting):
            break
        waiting = left


def _roots(needs: "nx.DiGraph[str]") -> dict[str, frozenset[str]]:
    """For each node the members of the sinks that it leads to."""
    if not needs:
        return {}
    condensed = nx.condensation(needs)
    roots: dict[str, frozenset[str]] = {}
    for start in condensed:
        reached = {start} | nx.descendants(condensed, start)
        sinks = [condensed.nodes[part]["members"] for part in reached if condensed.out_degree(part) == 0]
        roots |= dict.fromkeys(condensed.nodes[start]["members"], frozenset[str]().union(*sinks))
    return roots
