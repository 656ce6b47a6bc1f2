"""What is called instead of what an image expects: a wrong target, or a replica, which is as good. Pure.

An edge's *form* is the edge with the service in place of each replica: edges of one form stand for each other.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set

from dm.edge import EdgeKey, Failure, LiveEdge
from dm.graph import LiveGraph
from dm.kin import Kin

KEPT_S = 30.0
"""What was called within that time counts as in use."""
_TOLD_TOGETHER_S = 2.0
"""Agents of two machines tell of what happened together as far apart."""


class Instead:
    """The expected edges, and the live ones outside the image that may stand for them."""

    def __init__(
        self,
        expected: Iterable[EdgeKey],
        graph: LiveGraph,
        *,
        vcds: Set[str],
        replicas: Mapping[str, str],
        patience_s: float,
    ) -> None:
        """``replicas`` says of VCDs which service they are a replica of; ``vcds`` are those of the image."""
        self._graph = graph
        self._vcds = vcds
        self._replicas = replicas
        self._patience_s = patience_s
        self._expected, self._strangers = Kin(), Kin()
        self._calls: dict[str, list[EdgeKey]] = {}
        self._callers: dict[str, list[EdgeKey]] = {}
        self._forms: dict[EdgeKey, list[EdgeKey]] = {}
        self._other_forms: dict[EdgeKey, dict[EdgeKey, None]] = {}
        for key in expected:
            self._expected.add(key)
            self._calls.setdefault(key.source, []).append(key)
            self._callers.setdefault(key.target, []).append(key)
            if (form := self._form(key)) is not None:
                self._forms.setdefault(form, []).append(key)

    def note(self, key: EdgeKey, *, counts: bool) -> None:
        """An edge outside the image is in use, or not any more."""
        form = self._form(key)
        if counts:
            self._strangers.add(key)
            if form is not None:
                self._other_forms.setdefault(form, {})[key] = None
            return
        self._strangers.discard(key)
        if form is not None and (keys := self._other_forms.get(form)):
            keys.pop(key, None)
            if not keys:
                del self._other_forms[form]

    def near(self, key: EdgeKey) -> list[EdgeKey]:
        """The expected edges for which one outside the image may stand."""
        return list(dict.fromkeys([*self._expected.near(key), *self.alike(key)]))

    def alike(self, key: EdgeKey) -> Sequence[EdgeKey]:
        """The expected edges for which a replica may stand in by this one."""
        form = self._form(key)
        return () if form is None else self._forms.get(form, ())

    def replacement(self, key: EdgeKey, now_s: float, *, overdue: bool) -> str:
        """What the source calls instead by mistake, as a sentence; empty when nothing suggests it.

        While the golden edge is not overdue, only attempts that never succeeded count, and a second external
        destination on a common port is nobody's replacement; nor is what another program tries, as from a shell, or one
        target more where several are called at the same port.
        """
        known = self._graph.get(key)
        last_s = (known.last_attempt_s if known else None) or 0.0
        for other in self._strangers.near(key):
            live = self._graph.get(other)
            attempted_s = (live.last_attempt_s if live is not None else None) or 0.0
            if attempted_s <= last_s or attempted_s < now_s - KEPT_S or self._stands_for(other, key):
                continue
            fails = (
                live is not None
                and not live.seen_ok
                and live.failing(now_s, patience_s=self._patience_s)
                and self._is_program(key.source, live)
            )
            if not self._is_misplaced(key, other, live):
                continue
            if (overdue and other.target != key.target) or (fails and key.target in self._vcds):
                return f"{key.source} calls {other.called} instead of {key.called}"
        return ""

    def stand_in(self, key: EdgeKey, now_s: float) -> str:
        """Which replica answers, or calls, instead of this edge's target or source, as a sentence; empty for none.

        A replica of the source stands in for one that nobody calls on any more: one that has to call by itself does not
        follow from another that does.
        """
        form = self._form(key)
        if form is None:
            return ""
        others = (*self._forms.get(form, ()), *self._other_forms.get(form, ()))
        used = [other for other in others if other != key and self._is_used(other, now_s)]
        for other in used:
            if other.source == key.source:
                return f"{other.target} answers in its stead"
        if used and self._is_left(key):
            return f"{used[0].source} calls it in its stead"
        return ""

    def _form(self, key: EdgeKey) -> EdgeKey | None:
        """An edge with the services of its ends; None when neither is a replica."""
        source, target = self._replicas.get(key.source), self._replicas.get(key.target)
        if source is None and target is None:
            return None
        return key._replace(source=source or key.source, target=target or key.target)

    def _stands_for(self, other: EdgeKey, key: EdgeKey) -> bool:
        form = self._form(key)
        return form is not None and form == self._form(other)

    def _is_used(self, key: EdgeKey, now_s: float) -> bool:
        live = self._graph.get(key)
        return live is not None and (live.open > 0 or (live.last_established_s or -math.inf) > now_s - KEPT_S)

    def _is_left(self, key: EdgeKey) -> bool:
        """Whether those who should call on an edge's source have not done so since the edge was last in use."""
        callers = self._callers.get(key.source, ())
        last_s = _active_s(self._graph.get(key)) + _TOLD_TOGETHER_S
        return bool(callers) and all(_active_s(self._graph.get(one)) <= last_s for one in callers)

    def _is_misplaced(self, key: EdgeKey, other: EdgeKey, live: LiveEdge | None) -> bool:
        """Whether a call outside the image may be made by mistake for one in it, and not beside it.

        Where several machines are called at one port, another one of the stack is merely called as well, unless it has
        nothing there.
        """
        alone = all(one.target == key.target for one in self._expected.alike(key))
        refused = live is not None and Failure.REFUSED in live.kinds
        lost = other.target not in self._vcds and (live is None or not live.seen_ok)
        return alone or refused or lost or other.target == key.target

    def _is_program(self, source: str, stranger: LiveEdge) -> bool:
        """Whether who makes a call that nobody expects makes expected ones as well, as far as commands are known."""
        calls: Collection[EdgeKey] = self._calls.get(source, ())
        usual = {
            command
            for key in calls
            if (live := self._graph.get(key)) is not None
            for command in live.commands
        }
        return not usual or not stranger.commands or bool(usual & stranger.commands)


def _active_s(live: LiveEdge | None) -> float:
    """When an edge was last in use."""
    if live is None:
        return -math.inf
    active_s = live.active_s()
    return math.inf if live.open > 0 else -math.inf if active_s is None else active_s
