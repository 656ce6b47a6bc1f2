"""What is known of one VCD beside its edges. Pure: times are passed in."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from dm.edge import Door, FlowKey
from dm.states import Source

SILENT_AFTER_S = 5.0
"""An idle agent speaks every second interval, and an interval is 2 s at most."""
LOSS_REMEMBERED_S = 30.0
RESTART_WINDOW_S = 60.0
RESTARTS_FORGIVEN = 2
BOOT_S = 120.0
"""What was started anew may take so long before its agent speaks: a whole machine has to boot."""
DOORS_KEPT = 1024
LOSSES_TOLERATED = {
    "LOSS_REASON_MAP_FULL": 0,
    "LOSS_REASON_TABLE_FULL": 0,
    "LOSS_REASON_MISSED_PROBE": 10,
    "LOSS_REASON_NAMES": 0,
}
"""How many losses between two reports leave what is missing believable. A full ring costs a wake-up, never a count."""


class Power(StrEnum):
    """What a VCD's instance does."""

    UNKNOWN = "unknown"
    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


DOWN = frozenset({Power.ABSENT, Power.STOPPED, Power.PAUSED, Power.CRASHED})
OVER = DOWN - {Power.PAUSED}
"""It will not go on by itself; paused ones do, as when a snapshot was taken."""


class Doors(NamedTuple):
    """What a look at where a VCD listens found: whether that changed, where it is new, and where it is so again."""

    changed: bool
    opened: frozenset[Door]
    reopened: frozenset[Door]


class VcdState:
    """What is known of one VCD beside its edges."""

    def __init__(self, name: str, *, generation: int, started_s: float) -> None:
        self.name = name
        self.generation = generation
        self.started_s = started_s
        # When a program that others need was last seen to listen again.
        self.begun_s = -math.inf
        self.session = ""
        self.connected = False
        self.last_heard_s = 0.0
        self.seen_since_s: float | None = None
        self.pending_table: set[FlowKey] | None = None
        self.missing_probes: tuple[str, ...] = ()
        self.losses: dict[str, int] = {}
        self.last_loss_s: float | None = None
        self.power = Power.UNKNOWN
        self.held = ""
        # Since when it is held, which incarnation it was before, and until when it is spared, and why.
        self.held_since_s = 0.0
        self.held_as = ""
        self._spared_until_s, self._spared_why = 0.0, ""
        self.boots = False
        self.reverted = ""
        self.incarnation = ""
        # Why its deployer cannot take it back; empty when it can.
        self.unrevertible = ""
        self.restarts: deque[float] = deque(maxlen=RESTARTS_FORGIVEN + 1)
        self._adopted = 0
        self._listened: frozenset[Door] = frozenset()
        self._listens: frozenset[Door] = frozenset()
        self._deaf: dict[Door, float] = {}
        self._reopened: dict[Door, deque[float]] = {}

    def begin(self, session: str) -> None:
        """An agent says hello; what it counts begins anew with another session."""
        if session != self.session:
            self.session, self.losses = session, {}

    def adopt(self) -> None:
        """The agent now on the stream is of the present generation, though it may not know it yet."""
        self._adopted = self.generation

    def speaks(self, generation: int) -> bool:
        """Whether a report of that generation (0: the agent was told none yet) is about the present instance."""
        return generation == self.generation or (generation == 0 and self._adopted == self.generation)

    @property
    def doubtful(self) -> bool:
        """Whether it is not wholly seen, or not up."""
        return self.seen_since_s is None or bool(self.missing_probes or self.held) or self.power in DOWN

    @property
    def source(self) -> Source:
        """What its own edges are judged by."""
        over = f"{self.name} is {self.power}" if self.power in OVER and not self.held else ""
        return Source(self.started_s, self.seen_since_s, self._deaf, over, self._listens, self.begun_s)

    def listen(self, listeners: frozenset[Door], *, now_s: float) -> Doors:
        """Its agent said where it listens."""
        opened = listeners - self._listens
        doors = Doors(listeners != self._listens, opened, opened & self._deaf.keys())
        self._deaf = {door: self._deaf.get(door, now_s) for door in self._listened - listeners}
        self._listens = listeners
        self._listened = listeners | (self._listened if len(self._listened) < DOORS_KEPT else frozenset())
        return doors

    def is_program_forgiven(self, doors: Iterable[Door], *, now_s: float) -> bool:
        """Note that a program listens there again; whether that happened seldom enough of late to be a restart."""
        often = False
        for door in doors:
            times = self._reopened.setdefault(door, deque(maxlen=RESTARTS_FORGIVEN + 1))
            times.append(now_s)
            often = often or (len(times) > RESTARTS_FORGIVEN and now_s - times[0] < RESTART_WINDOW_S)
        return not often

    def deaf_for_s(self, door: Door) -> float:
        """Seconds from when its agent missed a listener there to when it last said anything but that it is back."""
        return self.last_heard_s - self._deaf.get(door, self.last_heard_s)

    def lose(self, losses: Mapping[str, int], *, now_s: float) -> None:
        """Its agent could not count everything; ``losses`` are cumulative, by reason."""
        for reason, tolerated in LOSSES_TOLERATED.items():
            if losses.get(reason, 0) - self.losses.get(reason, 0) > tolerated:
                self.last_loss_s = now_s
        self.losses = dict(losses)

    def loss_doubt(self, now_s: float) -> str:
        """Why what is missing of its edges may only be unseen; empty when it cannot."""
        if self.last_loss_s is not None and now_s - self.last_loss_s < LOSS_REMEMBERED_S:
            return f"the agent of {self.name} lost events lately: what is missing may only be unseen"
        return ""

    def instance(self, power: Power, incarnation: str, *, held: str = "", reverted: bool = False) -> bool:
        """Take in what its instance does; true when it started anew, which raises the generation.

        One that is ``held`` is in somebody else's hands, and the text says how, as it follows the name; one that is
        ``reverted`` was taken back by him.
        """
        self.power, self.held = power, held
        self.reverted = incarnation if reverted else self.reverted
        restarted = bool(self.incarnation and incarnation and incarnation != self.incarnation)
        self.incarnation = incarnation or self.incarnation
        self.generation += restarted
        if restarted:
            self._listened = self._listens = frozenset()
            self._deaf = {}
        return restarted

    def spare(self, until_s: float, why: str) -> None:
        """Do not take it back until then; ``why`` follows its name."""
        self._spared_until_s, self._spared_why = until_s, why

    def spared(self, now_s: float) -> str:
        """Why it is not taken back now, though nobody holds it; empty when it may be."""
        return self._spared_why if now_s < self._spared_until_s else ""

    def is_forgiven(self, now_s: float) -> bool:
        """Note a restart; whether those of late are few enough to give it the time of a launch again."""
        self.restarts.append(now_s)
        return len(self.restarts) <= RESTARTS_FORGIVEN or now_s - self.restarts[0] >= RESTART_WINDOW_S

    def why_down(self, now_s: float) -> str:
        """Why it cannot be all right, whatever its connections say; empty when it can."""
        if self.held:
            return self.held
        if self.power in DOWN:
            return f"is {self.power}"
        times = len(self.restarts)
        return f"was started anew {times} times within a minute" if self.loops(now_s) else ""

    def loops(self, now_s: float) -> bool:
        """Whether it was started anew so often of late that it cannot be all right."""
        recent = sum(now_s - restart_s < RESTART_WINDOW_S for restart_s in self.restarts)
        return recent > RESTARTS_FORGIVEN
