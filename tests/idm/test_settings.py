"""The host's configuration."""

from pathlib import Path

import pytest

from idm.settings import Settings, SettingsError, load

BAD = [
    (
        "[podman]\nsocket = 'podman.sock'",
        'podman.socket: expected a path that begins with /, got "podman.sock"',
    ),
    (
        "[podman]\nulimits = ['nofile']",
        'podman.ulimits: expected a list whose items are each limits such as "nofile=1024:4096", got ["nofile"]',
    ),
    ("[libvirt]\nuri = 'qemu'", 'libvirt.uri: expected a libvirt URI such as qemu:///system, got "qemu"'),
    ("[podmann]", 'podmann: no such key: did you mean "podman"?'),
    ("state = 1", "state: expected a table, got 1: write [state] above its keys"),
]


def test_a_file_overrides_the_defaults(tmp_path: Path) -> None:
    """What the file leaves out has its default."""
    path = tmp_path / "idm.toml"
    path.write_text('[podman]\nulimits = ["nofile=1024:4096", "core=0"]\n')
    settings = load(path)
    assert settings.podman.ulimits == ("nofile=1024:4096", "core=0")
    assert settings.state == Settings().state


def test_the_environment_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STACKMEND_CONFIG is read when no path is given, and must exist then."""
    monkeypatch.setenv("STACKMEND_CONFIG", str(tmp_path / "idm.toml"))
    with pytest.raises(
        SettingsError, match=r"idm.toml: cannot be read, No such file or directory: check the path$"
    ):
        load(None)
    (tmp_path / "idm.toml").write_text('[state]\nrun = "/run/other"\n')
    assert load(None).state.run == "/run/other"


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """Every mistake brings its one line with file, place and what to write."""
    path = tmp_path / "idm.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"
