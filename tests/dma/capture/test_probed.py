"""What a plan asks its loader for."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from dma.capture.hooks import CGROUP, FENTRY, IPV6_FUNCTIONS, Hook, Plan
from dma.capture.layout import Knobs
from dma.capture.probed import Loaded, open_probed_capture
from dma.capture.settings import Settings
from dma.capture.target import Target
from dma.flow import CaptureError


class Listener:
    """A loader that loads nothing, and keeps what it was asked for."""

    name = "none"

    def __init__(self) -> None:
        self.programs: list[str] = []
        self.knobs: Knobs | None = None
        self.sizes: Mapping[str, int] = {}

    def load(
        self, stack: ExitStack, hooks: tuple[Hook, ...], knobs: Knobs, sizes: Mapping[str, int]
    ) -> Loaded:
        """Refuse."""
        self.programs, self.knobs, self.sizes = [hook.program for hook in hooks], knobs, sizes
        stack.close()
        raise CaptureError("heard")


def asked(plan: Plan, settings: Settings | None = None) -> Listener:
    """What a plan asks for on this machine."""
    listener = Listener()
    with pytest.raises(CaptureError, match="heard"):
        open_probed_capture(plan, listener, Target(), settings or Settings())
    return listener


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where IPv6 is switched off no program is asked for on its functions, and all others are."""
    with_it = asked(FENTRY).programs
    monkeypatch.setattr("dma.capture.probed.IPV6", tmp_path / "absent")
    left_out = set(with_it) - set(asked(FENTRY).programs)
    assert left_out == {name for name in with_it if name.startswith(IPV6_FUNCTIONS)} != set()


def test_maps_that_a_plan_does_not_use_are_small() -> None:
    """Of the two maps of connected UDP sockets a plan has room in the one that it uses."""
    settings = Settings(max_peers=100)
    by_plan = {plan.name: asked(plan, settings).sizes for plan in (FENTRY, CGROUP)}
    assert {name: (sizes["peers"], sizes["talks"]) for name, sizes in by_plan.items()} == {
        "fentry": (100, 1),
        "cgroup": (1, 100),
    }


def test_settings_become_constants() -> None:
    """Times reach the programs in nanoseconds."""
    knobs = asked(CGROUP, Settings(patience_ms=2, talk_ms=3)).knobs
    assert knobs
    assert (knobs.patience_ns, knobs.talk_ns) == (2_000_000, 3_000_000)
