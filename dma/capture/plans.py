"""Chooses a probe plan by trying, never by kernel version."""

from collections.abc import Callable, Mapping

from dma.capture.cgroup import open_cgroup_capture
from dma.capture.diag import open_netlink_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import Capture, CaptureError

# The best first.
OPENERS: Mapping[str, Callable[[Target, Settings], Capture]] = {
    "cgroup": open_cgroup_capture,
    "netlink": open_netlink_capture,
}
AUTO = "auto"


def open_capture(target: Target, *, plan: str = AUTO, settings: Settings | None = None) -> Capture:
    """Open the named plan, or the first that works here; a context manager.

    Raises ``CaptureError``; with ``auto`` it gives the best plan's reason.
    """
    names = list(OPENERS) if plan == AUTO else [plan]
    problems = []
    for name in names:
        try:
            return OPENERS[name](target, settings or Settings())
        except CaptureError as e:
            problems.append(e)
    raise problems[0]
