"""What the deployer remembers."""

import subprocess
import sys
from pathlib import Path

import pytest

from idm.errors import DeployError
from idm.journal import Journal


def test_launch_goes_on_in_the_next_process(tmp_path: Path) -> None:
    """A launch keeps its name over restarts of the deployer and grows older; a new one has a new name."""
    with Journal(tmp_path / "idm.sqlite") as journal:
        assert journal.launch() is None
        began = journal.begin_launch()
    with Journal(tmp_path / "idm.sqlite") as journal:
        later = journal.launch()
        assert later is not None
        assert later.id == began.id
        assert later.age_ms >= began.age_ms
        assert journal.begin_launch().id != began.id


def test_reboot_ends_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot the launch that went on before is none any more."""
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    monkeypatch.setattr("idm.journal._BOOT_ID", boot)
    with Journal(tmp_path / "idm.sqlite") as journal:
        journal.begin_launch()
        boot.write_text("two\n")
        assert journal.launch() is None


def test_what_was_begun_survives_kill(tmp_path: Path) -> None:
    """A process that is killed after it began a command leaves it begun, with the steps that it finished."""
    program = f"""
import os, pathlib, signal
from idm.journal import Journal
journal = Journal(pathlib.Path({str(tmp_path / "idm.sqlite")!r}))
journal.begin(7, operation="op", action="revert")
journal.choose(7, snapshot="tag")
journal.begin_step(7, "db"); journal.finish_step(7, "db"); journal.begin_step(7, "api")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with Journal(tmp_path / "idm.sqlite") as journal:
        entry = journal.get(7)
        assert (entry.operation, entry.snapshot, entry.done) == ("op", "tag", False)
        assert journal.newest() == 7
        assert journal.finished_steps(7) == {"db"}
        journal.finish(7, problem="", evidence="/e")
        assert journal.get(7).done


def test_unusable_file_is_told(tmp_path: Path) -> None:
    """A file that is no database is told in one line."""
    (tmp_path / "idm.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DeployError, match=r"the journal .* cannot be used"):
        Journal(tmp_path / "idm.sqlite")
