"""The command line ``dm``, run as a user runs it against a real manager."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dm.golden import encode
from tests.dm.test_golden import an_image

READY_S = 20.0


def dm(*arguments: str, dm_target: str = "") -> "subprocess.CompletedProcess[str]":
    """Run ``dm`` to its end."""
    environment = os.environ | {"STACKMEND_DM": dm_target}
    command = [sys.executable, "-m", "dm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[str]:
    """A manager in a process of its own; its address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(tmp_path / "ready"))
        ready.settimeout(READY_S)
        target = f"unix:{tmp_path}/dm.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "dm", "serve", "--listen", target, "--state", str(tmp_path / "dm.sqlite")],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "ready")},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert ready.recv(64) == b"READY=1"
            yield target
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(READY_S) == 0


def test_golden_images_travel_as_files(manager: str, tmp_path: Path) -> None:
    """An exported image can be imported, shown, compared, merged and deleted again."""
    original = tmp_path / "image.json"
    original.write_text(encode(an_image()))
    imported = dm("golden", "import", str(original), dm_target=manager)
    assert imported.returncode == 0, imported.stderr
    image_id = imported.stdout.split()[0]
    assert dm("golden", "show", "s", dm_target=manager).stdout == original.read_text()
    exported = tmp_path / "exported.json"
    assert dm("golden", "export", image_id, str(exported), dm_target=manager).returncode == 0
    assert exported.read_text() == original.read_text()
    other = tmp_path / "other.json"
    other.write_text(encode(an_image(edges=())))
    empty_id = dm("golden", "import", str(other), dm_target=manager).stdout.split()[0]
    compared = dm("golden", "diff", image_id, empty_id, dm_target=manager)
    assert (compared.returncode, compared.stdout) == (1, "- api → db:5432: required, held\n")
    (difference,) = json.loads(dm("golden", "diff", image_id, empty_id, "--json", dm_target=manager).stdout)
    assert (difference["kind"], difference["edge"]["port"]) == ("DIFFERENCE_KIND_GONE", 5432)
    assert dm("golden", "diff", image_id, image_id, dm_target=manager).returncode == 0
    assert dm("golden", "merge", image_id, empty_id, dm_target=manager).returncode == 0
    assert len(dm("golden", "list", dm_target=manager).stdout.splitlines()) == 3
    used = dm("golden", "use", image_id, dm_target=manager)
    assert used.stdout.startswith(image_id)
    assert used.stdout.endswith("(in force)\n")
    (current,) = [
        one for one in json.loads(dm("golden", "list", "--json", dm_target=manager).stdout) if one["current"]
    ]
    assert (current["id"], current["required"]) == (image_id, 1)
    assert dm("golden", "rm", empty_id, dm_target=manager).returncode == 0
    assert len(dm("golden", "list", dm_target=manager).stdout.splitlines()) == 2


def test_rules_stay_with_their_image(manager: str, tmp_path: Path) -> None:
    """A rule is added, changed and taken away by its pattern, and the image keeps its identifier."""
    original = tmp_path / "image.json"
    original.write_text(encode(an_image()))
    image_id = dm("golden", "import", str(original), dm_target=manager).stdout.split()[0]
    rule = ("api", "d*", "--port", "5432")
    added = dm("golden", "rule", "s", "tolerate", *rule, "--note", "slow disk", dm_target=manager)
    assert (added.returncode, added.stdout) == (0, "tolerate api → d*:5432 (slow disk)\n"), added.stderr
    assert added.stderr == f"it is about 1 edge of image {image_id}\n"
    none = dm("golden", "rule", "s", "pin", "api", "cache", dm_target=manager)
    assert none.stderr == f"it is about 0 edges of image {image_id}, so nothing is pinned\n"
    dm("golden", "rule", "s", "none", "api", "cache", dm_target=manager)
    assert dm("golden", "rule", image_id, "pin", *rule, dm_target=manager).stdout == "pin api → d*:5432\n"
    assert '"action": "pin"' in dm("golden", "show", image_id, dm_target=manager).stdout
    assert dm("golden", "rule", "s", "none", *rule, dm_target=manager).stdout == "no rules\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "nosuch"], "no stack 'nosuch' is deployed here (known: none): start it with `idm up`"),
        (["graph", "nosuch"], "no stack 'nosuch' is deployed here"),
        (["golden", "show", "abc"], "there is no golden image 'abc': `dm golden list` shows them"),
        (["golden", "merge", "abc"], "two or more golden images are needed to merge"),
        (["golden", "import", "/nonexistent.json"], "cannot read /nonexistent.json"),
        (["golden", "import", "/dev/null"], "/dev/null: not a golden image: it ends too early, in line 1"),
    ],
)
def test_wrong_input_is_one_line(manager: str, arguments: list[str], says: str) -> None:
    """Whatever is asked wrongly is answered by one line that says what to do."""
    failed = dm(*arguments, dm_target=manager)
    assert failed.returncode == 1
    assert failed.stderr.startswith("dm: ")
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("unix:/nonexistent/dm.sock", "no manager answers at unix:/nonexistent/dm.sock"),
        ("192.0.2.1:7443", "192.0.2.1:7443 is not on this machine"),
    ],
)
def test_a_manager_out_of_reach_is_one_line(target: str, says: str) -> None:
    """An unreachable or remote manager is named, with what to do."""
    failed = dm("status", "--dm", target)
    assert failed.returncode == 1
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("listen", "state", "says"),
    [
        ("0.0.0.0:7443", "dm.sqlite", "can be reached from other machines"),
        ("unix:" + "/tmp/" + "x" * 120, "dm.sqlite", "longer than the 107 bytes"),
        ("unix:dm.sock", "/proc/dm.sqlite", "cannot use /proc/dm.sqlite"),
    ],
)
def test_a_server_that_cannot_start_says_why(tmp_path: Path, listen: str, state: str, says: str) -> None:
    """A wrong address or file is refused before anything is served."""
    listen = listen.replace("unix:dm.sock", f"unix:{tmp_path}/dm.sock")
    failed = dm("serve", "--listen", listen, "--state", str(tmp_path / state))
    assert failed.returncode == 1
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("other", [(), ("abd",)])
def test_a_comparison_that_cannot_be_made_is_told_apart_from_a_difference(
    manager: str, other: tuple[str, ...]
) -> None:
    """As diff's, the status is 2 for trouble, so that a script does not take it for a finding."""
    failed = dm("golden", "diff", "abc", *other, dm_target=manager)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert len(failed.stderr.splitlines()) == 1


def test_events_and_status_of_nothing(manager: str) -> None:
    """A manager without stacks has nothing to show, and that is no error."""
    assert dm("events", dm_target=manager).stdout == ""
    assert dm("status", dm_target=manager).stdout == "no stack is deployed\n"
    assert json.loads(dm("status", "--json", dm_target=manager).stdout) == []
    assert dm("golden", "list", dm_target=manager).stdout.startswith("no golden images: `idm capture` learns")
    assert json.loads(dm("golden", "list", "--json", dm_target=manager).stdout) == []


def test_the_schema_is_printed_without_a_manager() -> None:
    """`dm golden schema` asks nobody."""
    printed = dm("golden", "schema")
    assert json.loads(printed.stdout)["$ref"] == "#/$defs/GoldenImage"
