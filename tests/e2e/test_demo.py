"""The demo as a command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.namespace import PREFIX
from tests.lab.podman import BASE

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

END_S = 120


@pytest.mark.parametrize("until", ["a private podman", "agents watch them", "FAULT"])
def test_an_interrupted_demo_cleans_up_after_itself(until: str) -> None:
    """Ctrl-C at any point ends the demo with nothing left: no namespace, process, mount or file."""
    demo = subprocess.Popen(
        [sys.executable, "-um", "tests.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    said = ""
    while until not in said:
        line = demo.stdout.readline()
        assert line, said
        said += line
    os.killpg(demo.pid, signal.SIGINT)
    said += demo.communicate(timeout=END_S)[0]
    assert demo.returncode == 128 + signal.SIGINT, said
    own = f"{PREFIX}{demo.pid}-"
    assert not list(BASE.glob(f"{own}*"))
    assert not list(Path("/run/netns").glob(f"{own}*"))
    assert own not in Path("/proc/mounts").read_text()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if own in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
