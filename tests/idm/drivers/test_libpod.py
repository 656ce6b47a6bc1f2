"""The connection to podman's API."""

from pathlib import Path

import pytest

from idm.drivers.libpod import Libpod


def test_the_users_own_podman_settings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What podman keeps in the home directory is not read: under another user it may be broken or out of reach."""
    settings = tmp_path / ".config" / "containers"
    settings.mkdir(parents=True)
    (settings / "podman-connections.json").write_text("{")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    Libpod(tmp_path / "podman.sock").close()
