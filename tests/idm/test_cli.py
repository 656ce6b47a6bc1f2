"""The command line: every mistake is one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = """
[stack]
name = "shop"
[network]
subnet = "198.18.1.0/24"
[vcd.db]
image = "localhost/nothing"
"""


def _idm(tmp_path: Path, *arguments: str, run: str = "run") -> "subprocess.CompletedProcess[str]":
    (tmp_path / "stack.toml").write_text(MANIFEST)
    (tmp_path / "idm.toml").write_text(
        f'[state]\ndirectory = "{tmp_path}/state"\nrun = "{tmp_path}/{run}"\n[podman]\nsocket = "{tmp_path}/no.sock"\n'
    )
    command = [
        sys.executable,
        "-m",
        "idm",
        "-f",
        str(tmp_path / "stack.toml"),
        "--config",
        str(tmp_path / "idm.toml"),
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status",), "no manager answers at unix:"),
        (("history",), "no manager answers at unix:"),
        (("approve", "op1"), "no manager answers at unix:"),
        (("reject", "op1"), "no manager answers at unix:"),
        (("guard", "off"), "no manager answers at unix:"),
        (("rollback", "db", "--yes"), "nobody deploys shop"),
        (("rollback", "nope", "--yes"), "no such VCD: nope (the stack has db)"),
        (("up",), "no.sock"),
        (("watch",), "no.sock"),
        (("snapshots",), "no.sock"),
        (("down",), "no.sock"),
        (("-f", "/nonexistent/stack.toml", "status"), "/nonexistent/stack.toml"),
        (("--config", "/nonexistent/idm.toml", "status"), "/nonexistent/idm.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """What is missing is told in one line on standard error, with exit code 1 and no traceback."""
    done = _idm(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("idm: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--foreground", "--no-watch"),
        ("rollback",),
        ("guard", "maybe"),
        ("up", "--deadline", "-3"),
        ("dance",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Wrong usage ends with exit code 2 and no traceback."""
    done = _idm(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """A run directory too deep for a socket is told before anything is started."""
    done = _idm(tmp_path, "up", run="x" * 100)
    assert done.returncode == 1
    assert "107 are possible: set a shorter run directory" in done.stderr
    assert not (tmp_path / ("x" * 100)).exists()


def test_failed_commands_leave_no_process(tmp_path: Path) -> None:
    """A launch that cannot begin for want of an engine leaves no manager behind."""
    _idm(tmp_path, "up")
    assert not list((tmp_path / "run").rglob("*.pid"))
