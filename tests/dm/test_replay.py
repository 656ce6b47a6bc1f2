"""Recordings played again, as by ``dm replay``."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from dm.golden import encode
from dm.replay import Player, ReplayError, Said, read
from dm.service.recording import recording as recorder
from dm.store.sqlite import Store
from dm.v1.golden_service_pb2 import RULE_ACTION_IGNORE, ImportGoldenRequest, SetGoldenRuleRequest
from tests.dm.test_cli import dm
from tests.dm.test_golden import an_image
from tests.sim.recorded import KEPT
from tests.sim.test_recorded import refuse

CRASH = str(KEPT / "shop-crash.jsonl.gz")


def verdicts(*options: str) -> list[str]:
    """Those that ``dm replay`` tells of a crash, without a manager."""
    done = dm("replay", CRASH, "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["verdict"] for line in done.stdout.splitlines()]


def test_a_user_sees_what_the_manager_said() -> None:
    """Each change of the verdict is a line with its time, the stack, the reasons and who is suspected."""
    told = dm("replay", CRASH).stdout.splitlines()
    (failed,) = [line for line in told if "shop  failed: " in line]
    assert "attempts refused" in failed
    assert failed.endswith("suspect cache (score 1.00)")


def test_other_settings_lead_to_other_verdicts() -> None:
    """A threshold that nothing exceeds makes of the failure a mere deviation."""
    assert "failed" in verdicts()
    assert "failed" not in verdicts("--set", "judge.vcd_threshold=1")
    assert "failed" not in verdicts("--set", "judge.vcd_thresholds.cache=1")
    assert "failed" not in verdicts("--set", "judge.confirm_s=60")


def test_an_image_from_elsewhere_is_judged_by(tmp_path: Path) -> None:
    """A recording of a manager that had its image already is played with that."""
    recording, image = tmp_path / "recording.jsonl", tmp_path / "image.json"
    asyncio.run(refuse(tmp_path, recording))
    lines = [line for line in recording.read_text().splitlines() if "CaptureGolden" not in line]
    recording.write_text("\n".join(lines))
    assert '"failed"' not in dm("replay", str(recording), "--json").stdout
    held = an_image(stack="pair", vcds=("db", "web"), edges=()).edges
    edge = an_image().edges[0]
    from_web = type(edge)(
        **{name: getattr(edge, name) for name in edge.__struct_fields__} | {"source": "web"}
    )
    image.write_text(encode(an_image(stack="pair", vcds=("db", "web"), edges=(*held, from_web))))
    assert '"failed"' in dm("replay", str(recording), "--json", "--image", str(image)).stdout


def test_a_recording_of_a_manager_that_has_learned_suffices_by_itself(tmp_path: Path) -> None:
    """The image in force at its beginning is in it, and what was recorded before is kept beside it."""
    recording = tmp_path / "recording.jsonl"
    asyncio.run(refuse(tmp_path, recording))
    first = recording.read_text()
    with Store(tmp_path / "dm.sqlite") as store:
        images = [kept.image for kept in store.golden() if kept.current]
    with recorder(recording, images):
        pass
    assert (tmp_path / "recording.jsonl.old").read_text() == first
    said = [
        *read(recording),
        *(one for one in read(tmp_path / "recording.jsonl.old") if "Golden" not in one.method),
    ]
    assert "failed" in {moment.judgement.verdict for moment in Player().play(said)}


def test_what_people_say_of_an_image_is_played(tmp_path: Path) -> None:
    """An imported image and a rule count from when they came; what was refused then is refused again."""
    recording = tmp_path / "recording.jsonl"
    asyncio.run(refuse(tmp_path, recording))
    said = list(read(recording))
    (captured,) = [number for number, one in enumerate(said) if one.method.endswith("CaptureGolden")]
    at_s = said[captured].at_s
    rule = SetGoldenRuleRequest(id="pair", action=RULE_ACTION_IGNORE, source="web", target="db")
    wrong = ImportGoldenRequest(document="{")
    said[captured + 1 : captured + 1] = [
        Said(at_s, 100, "/dm.v1.GoldenService/SetGoldenRule", MessageToDict(rule)),
        Said(at_s, 101, "/dm.v1.GoldenService/ImportGolden", MessageToDict(wrong)),
    ]
    assert "failed" not in {moment.judgement.verdict for moment in Player().play(said)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ""),
        (b'{"at_s": 1}\n', "line 1: not a recording: name a file written by `dm serve --record`"),
        (b"[]\n", "line 1: not a recording"),
        (b"\xff\xfe", "cannot read"),
        (gzip.compress(b"{}")[:-4], "cannot read"),
        (
            b'{"at_s": 0, "call": 1, "method": "/dm.v1.StackService/ApplyStack", "request": {"stak": {}}}',
            "/dm.v1.StackService/ApplyStack at 0.0 s is not understood",
        ),
        (
            b'{"at_s": 0, "call": 1, "method": "/x/CaptureGolden", "request": {"stack": "s"}}',
            "/x/CaptureGolden at 0.0 s is of 's', not declared before",
        ),
    ],
)
def test_a_file_that_is_no_recording_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    """Whatever it is, it is refused with its place."""
    file = tmp_path / "file"
    file.write_bytes(content)
    if not says:
        assert list(Player().play(read(file))) == []
        return
    with pytest.raises(ReplayError, match=says) as caught:
        list(Player().play(read(file)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "judge.confirm=5"], "no such setting: write NAME=VALUE with one of judge.stack_threshold"),
        (["--set", "judge.confirm_s"], "no such setting"),
        (["--set", "judge.confirm_s=long"], "--set judge.confirm_s=long: expected a number"),
        (["--set", "judge.count_external=2"], "expected true or false"),
        (["--set", "judge.confirm_s=-1"], "expected no less than 0"),
        (["--image", "/dev/null"], "/dev/null: not a golden image: it ends too early"),
        (["--image", "/nonexistent"], "cannot read /nonexistent"),
    ],
)
def test_wrong_options_are_told(options: list[str], says: str) -> None:
    """A setting or an image that cannot be used is refused before anything is played."""
    failed = dm("replay", CRASH, *options)
    assert failed.returncode != 0
    assert says in failed.stderr
    assert failed.stdout == ""
