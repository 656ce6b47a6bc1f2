"""The settings that a verdict and what follows from it depend on, by their places in the manifest. Pure values."""

from collections.abc import Iterator
from typing import NamedTuple

from dm.policy import Policy
from dm.rollback import Limits, Mode


class Knob(NamedTuple):
    """One setting."""

    name: str
    value: str
    meaning: str


def knobs(policy: Policy, limits: Limits, *, mode: Mode) -> Iterator[Knob]:
    """All of them; ``mode`` is the one in force, which a person may have set instead of the manifest's."""
    yield Knob(
        "judge.stack_threshold",
        f"{policy.stack_threshold:g}",
        "the stack fails above this share of its edges",
    )
    yield Knob(
        "judge.vcd_threshold", f"{policy.vcd_threshold:g}", "a VCD fails above this share of its own edges"
    )
    for vcd, share in sorted(policy.vcd_thresholds.items()):
        yield Knob(f"judge.vcd_thresholds.{vcd}", f"{share:g}", f"the same for {vcd} alone")
    yield Knob(
        "judge.hysteresis",
        f"{policy.hysteresis:g}",
        "how far below a threshold, as a share of it, what was above it has to fall",
    )
    yield Knob(
        "judge.confirm_s", f"{policy.confirm_s:g}", "seconds that it has to last before it is believed"
    )
    yield Knob("judge.launch_slack_s", f"{policy.slack_s:g}", "seconds added to every time that was learned")
    yield Knob(
        "judge.patience_s", f"{policy.patience_s:g}", "seconds without an answer that make an attempt fail"
    )
    yield Knob(
        "judge.count_external", str(policy.count_external).lower(), "whether new calls to the outside count"
    )
    guard = "" if mode is limits.mode else f"; `idm guard` has set {mode} instead"
    yield Knob("rollback.mode", limits.mode.value, f"observe, approve or auto{guard}")
    yield Knob(
        "rollback.attempts_per_vcd", f"{limits.attempts_per_vcd}", "rollbacks of one VCD within an hour"
    )
    yield Knob(
        "rollback.attempts_per_stack", f"{limits.attempts_per_stack}", "rollbacks within an hour in all"
    )
    yield Knob("rollback.at_once", f"{limits.at_once}", "VCDs that one rollback may take back")
    yield Knob("rollback.cooldown_s", f"{limits.cooldown_ms / 1000:g}", "seconds between two rollbacks")
