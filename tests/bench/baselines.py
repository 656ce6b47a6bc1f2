"""Simple ways of guessing who is to blame, to be held beside ours."""

import random
from collections import Counter
from collections.abc import Callable, Iterable

import networkx as nx

from dm.verdict import Judgement


def by_chance(judgement: Judgement, choose: random.Random) -> str:
    """Any end of a deviating edge."""
    ends = sorted({end for symptom in judgement.symptoms for end in (symptom.key.source, symptom.key.target)})
    return choose.choice(ends) if ends else ""


def most_edges(judgement: Judgement, _: random.Random) -> str:
    """Whoever touches the most deviating edges."""
    return _most(end for symptom in judgement.symptoms for end in (symptom.key.source, symptom.key.target))


def the_callee(judgement: Judgement, _: random.Random) -> str:
    """Whoever is called by the most deviating edges."""
    return _most(symptom.key.target for symptom in judgement.symptoms)


def pagerank(judgement: Judgement, _: random.Random) -> str:
    """Personalised PageRank from the callers of deviating edges along these edges."""
    graph: nx.DiGraph[str] = nx.DiGraph(
        (symptom.key.source, symptom.key.target) for symptom in judgement.symptoms
    )
    if not graph:
        return ""
    sources = Counter(symptom.key.source for symptom in judgement.symptoms)
    ranks = nx.pagerank(graph, personalization=dict(sources))
    return str(max(sorted(ranks), key=lambda name: ranks[name]))


BASELINES: dict[str, Callable[[Judgement, random.Random], str]] = {
    "random": by_chance,
    "most deviating edges": most_edges,
    "blame the callee": the_callee,
    "personalised PageRank": pagerank,
}


def _most(names: Iterable[str]) -> str:
    counted = Counter(sorted(names))
    return counted.most_common(1)[0][0] if counted else ""
