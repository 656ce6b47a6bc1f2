"""Who is responsible: the smallest set of nodes that explains every deviating edge, with the evidence. Pure.

Each deviating edge u → v speaks, with a weight, for its caller, for its target, or for what the target itself needs
first and cannot reach (it is then explained away). Culprits are chosen greedily by the weight that they explain, the
classical approximation of the smallest set cover.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import networkx as nx

from dm.contacts import Contacts, Touch
from dm.edge import EdgeKey, Failure
from dm.states import EdgeState, Judged

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

    Its calls have failed from ``since_s`` to ``until_s``, which is infinite while one waits in vain. ``uncalled``: its
    source calls nobody, and none of those that should call on the source does; ``attempted``: calls failed, it is not
    merely known that they would; ``deaf``: its target listens no longer where it did; ``untried``: it was never there,
    though its source is up.
    """

    key: EdgeKey
    judged: Judged
    kinds: frozenset[Failure]
    since_s: float
    until_s: float
    pending: bool
    uncalled: bool
    attempted: bool
    deaf: bool
    untried: bool


class Facts(NamedTuple):
    """What is known of the nodes at the symptoms' ends.

    ``reached`` names others who got through where calls fail, while they failed. ``excused`` are edges that fail but
    are not due: a node that suffers from one of them has to be waited for.
    """

    vcds: Container[str]
    down: Mapping[str, str]
    silent: frozenset[str]
    contacts: Contacts
    reached: Mapping[EdgeKey, Sequence[str]]
    excused: Collection[EdgeKey] = ()


class Suspect(NamedTuple):
    """A node that may be responsible. ``score`` is the share of the deviating edges' weight that it explains."""

    name: str
    external: bool
    score: float
    evidence: tuple[str, ...]


class Finding(NamedTuple):
    """The culprits, the runners-up behind them, and whether they are far enough ahead of these for a decision.

    ``awaited`` are culprits of whom nothing is wrong but what follows from them: they are about to be back.
    """

    culprits: tuple[Suspect, ...]
    others: tuple[Suspect, ...]
    confident: bool
    awaited: tuple[str, ...] = ()


Speaks = dict[str, tuple[float, str]]
"""What one edge says: for each node a weight and the sentence for it."""

Said = dict[EdgeKey, tuple[float, str]]
"""What is said for one node, by edge."""


def blame(symptoms: Sequence[Symptom], facts: Facts) -> Finding:
    """Find who explains the symptoms; empty without symptoms."""
    symptoms = sorted(symptoms, key=lambda symptom: symptom.key)
    speaks = {symptom.key: _speak(symptom, facts) for symptom in symptoms}
    accused = {name for says in speaks.values() for name, (weight, _) in says.items() if weight >= EXPLAINS}
    _explain_away(symptoms, speaks, facts)
    said = _by_name(speaks)
    totals = {name: sum(weight for weight, _ in of_name.values()) for name, of_name in said.items()}
    culprits, clear = _cover(speaks, said, dict(totals))
    all_weight = sum(max((weight for weight, _ in says.values()), default=0.0) for says in speaks.values())
    suspects = {
        name: _suspect(name, totals[name] / max(all_weight, 1e-9), said[name].values(), facts)
        for name in sorted(totals, key=lambda name: (-totals[name], name))
    }
    # Whom nothing else explains is named without those beside him who are in doubt; they come first among the others.
    named = [name for name in culprits if name in clear] or culprits
    chosen = tuple(suspects.pop(name) for name in named)
    doubted = tuple(suspects.pop(name) for name in culprits if name in suspects)
    awaited = tuple(name for name in named if name not in accused)
    return Finding(chosen, doubted + tuple(suspects.values()), bool(clear) or not culprits, awaited)


def _by_name(speaks: Mapping[EdgeKey, Speaks]) -> dict[str, Said]:
    said: dict[str, Said] = {}
    for key, says in speaks.items():
        for name, what in says.items():
            said.setdefault(name, {})[key] = what
    return said


def _cover(
    speaks: Mapping[EdgeKey, Speaks], said: Mapping[str, Said], totals: dict[str, float]
) -> tuple[list[str], set[str]]:
    """The culprits, the weightiest first, and those of them who are clearly ahead. ``totals`` are used up."""
    open_edges = {key for key, says in speaks.items() if says}
    culprits: list[str] = []
    clear: set[str] = set()
    while open_edges and totals:
        first = min(totals, key=lambda name: (-round(totals[name], 6), name))
        del totals[first]
        culprits.append(first)
        covered = {
            key: what for key, what in said[first].items() if key in open_edges and what[0] >= EXPLAINS
        }
        if not covered:
            break
        explained = _weigh(speaks, covered)
        best = explained.pop(first)
        if all(weight <= (1 - CONFIDENT) * best for weight in explained.values()):
            clear.add(first)
        for name in explained.keys() & totals.keys():
            totals[name] -= explained[name]
        open_edges -= covered.keys()
    return culprits, clear


def _weigh(speaks: Mapping[EdgeKey, Speaks], keys: Iterable[EdgeKey]) -> dict[str, float]:
    """What these edges say for each node, together."""
    totals: dict[str, float] = {}
    for key in keys:
        for name, (weight, _) in speaks[key].items():
            totals[name] = totals.get(name, 0.0) + weight
    return totals


def _suspect(name: str, score: float, said: Iterable[tuple[float, str]], facts: Facts) -> Suspect:
    told = sorted((what for what in said if what[0] >= EXPLAINS), key=lambda what: -what[0])
    return Suspect(
        name, name not in facts.vcds, min(score, 1.0), tuple(dict.fromkeys(text for _, text in told))
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
    key = symptom.key
    caller, target = key.source, key.target
    fails = f"{key}: {symptom.judged.reason}"
    if symptom.deaf:
        deaf = f"nothing listens any more at {key.called}, where {caller} calls"
        return {target: (0.95, deaf), caller: (0.05, fails)}
    if others := facts.reached.get(key):
        reached = f"{caller} cannot reach {key.called}, but {', '.join(others)} can"
        return {caller: (0.9, reached), target: (0.1, fails)}
    if target in facts.silent:
        return {target: (0.97, f"{fails}, and the agent of {target} is silent"), caller: (0.03, fails)}
    if Failure.REFUSED in symptom.kinds and not symptom.pending:
        if holding := facts.contacts.holding(key):
            held = f"{caller} is refused at {key.called}, where {', '.join(holding)} hold connections"
            return {caller: (0.9, held), target: (0.1, fails)}
        return {target: (0.95, fails), caller: (0.05, fails)}
    return _speak_unanswered(symptom, facts, fails)


def _speak_unanswered(symptom: Symptom, facts: Facts, fails: str) -> Speaks:
    """Nothing comes back: one of the two machines is cut off, more likely the one that is in touch with nobody else."""
    caller, target = symptom.key.source, symptom.key.target
    ours = facts.contacts.in_touch(caller, besides=target, since_s=symptom.since_s)
    theirs = facts.contacts.in_touch(target, besides=caller, since_s=symptom.since_s)
    weight = _weight_of_target(ours, theirs)
    for_target = f"{fails}, while {caller} is in touch with others" if ours > theirs else fails
    for_caller = f"{fails}, while {target} is in touch with others" if theirs > ours else fails
    return {target: (weight, for_target), caller: (1 - weight, for_caller)}


def _weight_of_target(ours: Touch, theirs: Touch) -> float:
    """How much an unanswered call speaks for its target, by how its caller and its target are in touch with others.

    That a machine which reaches others takes no calls may be its program's fault; a caller that is answered by others
    has none. Where nothing tells them apart, what is merely likely decides the order in which they are named.
    """
    if theirs is Touch.NONE is not ours or ours is Touch.SOME is not theirs:
        return 0.9
    if ours is Touch.NONE is not theirs:
        return 0.1
    return 0.5 + 0.05 * ((ours > theirs) - (theirs > ours))


def _speak_missing(symptom: Symptom, facts: Facts) -> Speaks:
    caller, target = symptom.key.source, symptom.key.target
    gone = f"{symptom.key}: {symptom.judged.reason}"
    if target in facts.silent:
        return {caller: (0.5, gone), target: (0.5, f"{gone}, and the agent of {target} is silent")}
    return {caller: (0.8, gone), target: (0.2, gone)}


def _explain_away(symptoms: Sequence[Symptom], speaks: dict[EdgeKey, Speaks], facts: Facts) -> None:
    """Move weight from a node that only suffers from what it needs to the roots of its suffering.

    Needs may be circular: the condensation is acyclic, and its sinks are the roots.
    """
    needs: nx.DiGraph[str] = nx.DiGraph()
    for symptom in symptoms:
        key = symptom.key
        clear = speaks[key].get(key.target, (0.0, ""))[0] >= CLEAR
        fails = symptom.judged.state is EdgeState.FAILING and symptom.attempted
        if clear and (fails or key.target in facts.down):
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
        for root in sorted(above):
            old = says.get(root, (0.0, ""))[0]
            follows = f"{sufferer} suffers from {root} ({key} follows from it)"
            says[root] = (max(old, CAUSES * weight), follows)
    _excuse(symptoms, speaks)


def _excuse(symptoms: Sequence[Symptom], speaks: dict[EdgeKey, Speaks]) -> None:
    """Who calls nobody because nobody calls on it follows whoever is to blame for that, through however many others."""
    uncalled = {symptom.key for symptom in symptoms if symptom.uncalled}
    inbound: dict[str, list[EdgeKey]] = {}
    for symptom in symptoms:
        inbound.setdefault(symptom.key.target, []).append(symptom.key)
    waiting = sorted(uncalled)
    while waiting:
        left = []
        for key in waiting:
            causes = [other for other in inbound.get(key.source, ()) if speaks[other]]
            if not causes:
                left.append(key)
            for other in causes:
                share = 1.0 if other in uncalled else CAUSES
                for cause, (weight, _) in speaks[other].items():
                    old = speaks[key].get(cause, (0.0, ""))[0]
                    follows = f"{key.source} calls nobody, since nobody calls on it"
                    speaks[key][cause] = (max(old, share * weight), follows)
        if len(left) == len(waiting):
            break
        waiting = left


def _roots(needs: "nx.DiGraph[str]") -> dict[str, frozenset[str]]:
    """For each node the members of the sinks that it leads to."""
    if not needs:
        return {}
    condensed = nx.condensation(needs)
    roots: dict[int, frozenset[str]] = {}
    for part in reversed(list(nx.topological_sort(condensed))):
        below = {roots[successor] for successor in condensed.successors(part)}
        roots[part] = frozenset().union(*below) if below else frozenset(condensed.nodes[part]["members"])
    return {name: roots[part] for name, part in condensed.graph["mapping"].items()}
