"""What is said to a process that the kernel refuses something."""

from pathlib import Path

import pytest

from dma import privileges

SERVICE = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"})


@pytest.mark.parametrize(
    ("held", "level", "advice"),
    [
        (frozenset(), 3, "run as root, or grant CAP_BPF"),
        (SERVICE, 3, "sysctl kernel.perf_event_paranoid=2, or --plan fentry"),
        (SERVICE, 2, "another plan may do without"),
        (SERVICE | {"CAP_SYS_ADMIN"}, 3, "another plan may do without"),
    ],
)
def test_the_reason_is_the_true_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: frozenset[str], level: int, advice: str
) -> None:
    """Missing capabilities come first, then a kernel that distrusts those that should do."""
    (tmp_path / "paranoid").write_text(f"{level}\n")
    monkeypatch.setattr(privileges, "PARANOID", tmp_path / "paranoid")
    monkeypatch.setattr(privileges, "held", lambda: held)
    assert advice in privileges.advice()
