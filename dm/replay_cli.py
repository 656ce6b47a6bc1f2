"""The command ``dm replay``."""

import json
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from dm.asking import fail
from dm.golden import GoldenError, GoldenImage, decode
from dm.policy import Policy
from dm.replay import Moment, Player, ReplayError, read

VCD_THRESHOLDS = "judge.vcd_thresholds."
_FIELDS = {
    "judge.stack_threshold": "stack_threshold",
    "judge.vcd_threshold": "vcd_threshold",
    "judge.hysteresis": "hysteresis",
    "judge.confirm_s": "confirm_s",
    "judge.launch_slack_s": "slack_s",
    "judge.patience_s": "patience_s",
    "judge.count_external": "count_external",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--image",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A golden image that is in force from the beginning, as `dm golden export` writes it.",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Judge by another setting than was declared, such as judge.confirm_s=5; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def replay(file: Path, image: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Say what a manager would have said of FILE, which `dm serve --record` wrote: each change of the verdict.

    No manager is needed, nothing is done, and an hour takes seconds: to find out what another setting or another image
    would have led to.
    """
    changes = [setting(text) for text in settings]

    def judge_by(policy: Policy) -> Policy:
        for name, value in changes:
            policy = changed(policy, name, value)
        return policy

    player = Player(image=_image(image) if image else None, judge_by=judge_by)
    try:
        for moment in turns(player.play(read(file))):
            click.echo(
                as_line(moment) if not as_json else json.dumps(as_document(moment), ensure_ascii=False)
            )
    except ReplayError as error:
        fail(str(error))


def turns(moments: Iterable[Moment]) -> Iterable[Moment]:
    """Those at which a stack's verdict or its culprits are others than before."""
    known: dict[str, tuple[object, ...]] = {}
    for moment in moments:
        judgement = moment.judgement
        now = judgement.verdict, *(suspect.name for suspect in judgement.finding.culprits)
        if known.get(moment.stack) != now:
            known[moment.stack] = now
            yield moment


def as_line(moment: Moment) -> str:
    """A moment for a person."""
    judgement = moment.judgement
    why = "; ".join(judgement.reasons[:3])
    culprits = "".join(
        f"; suspect {suspect.name} (score {suspect.score:.2f})" for suspect in judgement.finding.culprits
    )
    return f"[{moment.at_s:8.1f} s] {moment.stack}  {judgement.verdict}: {why}{culprits}"


def as_document(moment: Moment) -> dict[str, object]:
    """A moment for a program."""
    judgement = moment.judgement
    return {
        "at_s": round(moment.at_s, 3),
        "stack": moment.stack,
        "verdict": judgement.verdict.value,
        "deviation": judgement.deviation,
        "reasons": judgement.reasons,
        "culprits": [suspect._asdict() for suspect in judgement.finding.culprits],
    }


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE, with a name that is known; raises click.UsageError."""
    name, equals, value = text.partition("=")
    if not equals or (name not in _FIELDS and not name.startswith(VCD_THRESHOLDS)):
        known = ", ".join([*_FIELDS, f"{VCD_THRESHOLDS}VCD"])
        raise click.UsageError(f"--set {text}: no such setting: write NAME=VALUE with one of {known}")
    changed(Policy(), name, value)
    return name, value


def changed(policy: Policy, name: str, value: str) -> Policy:
    """The policy with one setting as people write it; raises click.UsageError when the value cannot be."""
    wanted = bool if name == "judge.count_external" else float
    try:
        number = msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        what = "true or false" if wanted is bool else "a number"
        raise click.UsageError(f"--set {name}={value}: expected {what}") from error
    if number < 0:
        raise click.UsageError(f"--set {name}={value}: expected no less than 0")
    if name.startswith(VCD_THRESHOLDS):
        vcd = name.removeprefix(VCD_THRESHOLDS)
        return policy._replace(vcd_thresholds={**policy.vcd_thresholds, vcd: number})
    return Policy(**policy._asdict() | {_FIELDS[name]: number})


def _image(file: Path) -> GoldenImage:
    try:
        return decode(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {file}: {error}; name a file written by `dm golden export`")
    except GoldenError as error:
        fail(f"{file}: {error}")
