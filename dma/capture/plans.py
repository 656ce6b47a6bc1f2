"""Chooses a probe plan and its loader by trying, never by kernel version.

What only the last resorts need is loaded by them: an agent is to see its first call within half a second.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from dma.capture.core import CoreLoader
from dma.capture.hooks import CGROUP, FENTRY, KPROBE
from dma.capture.probed import open_probed_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture, CaptureError

AUTO = "auto"


class Way(NamedTuple):
    """A plan by a loader."""

    plan: str
    loader: str
    open: Callable[[Target, Settings], Capture]

    def __str__(self) -> str:
        return f"plan {self.plan} by {self.loader}" if self.loader != "none" else f"plan {self.plan}"


def _by_bcc(target: Target, settings: Settings) -> Capture:
    from dma.capture.bcc import BccLoader

    return open_probed_capture(KPROBE, BccLoader(), target, settings)


def _by_netlink(target: Target, settings: Settings) -> Capture:
    from dma.capture.diag import open_netlink_capture

    return open_netlink_capture(target, settings)


# The best first.
WAYS = (
    Way("fentry", "core", partial(open_probed_capture, FENTRY, CoreLoader())),
    Way("kprobe", "core", partial(open_probed_capture, KPROBE, CoreLoader())),
    Way("cgroup", "core", partial(open_probed_capture, CGROUP, CoreLoader())),
    Way("kprobe", "bcc", _by_bcc),
    Way("netlink", "none", _by_netlink),
)
PLANS = tuple(dict.fromkeys(way.plan for way in WAYS))
LOADERS = tuple(dict.fromkeys(way.loader for way in WAYS if way.loader != "none"))


def open_capture(
    target: Target, *, plan: str = AUTO, loader: str = AUTO, settings: Settings | None = None
) -> Capture:
    """Open the named plan by the named loader, or the first that works here; a context manager.

    Raises ``CaptureError``; where there was a choice it gives the reasons of all.
    """
    ways = [way for way in WAYS if plan in (AUTO, way.plan) and loader in (AUTO, way.loader)]
    if not ways:
        raise CaptureError(f"plan {plan} is not loaded by {loader}: leave out --plan or --loader")
    problems: dict[str, Way] = {}
    for way in ways:
        try:
            return way.open(target, settings or Settings())
        except CaptureError as e:
            problems.setdefault(str(e), way)
    if len(problems) == 1:
        raise CaptureError(*problems)
    raise CaptureError("; ".join(f"{way}: {problem}" for problem, way in problems.items()))
