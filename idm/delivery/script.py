"""The scripts that put a payload into a guest, and take it out: POSIX shell with tar and systemd, as root. Pure."""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import PurePosixPath
from shlex import quote

from idm.delivery.payload import PUBLIC, File, Payload, archive

FRESH = ".stackmend-new"
UNITS = "/etc/systemd/system"
# Tells a unit that was delivered from one that the guest has of its own, which is left as it is.
MARK = "# delivered by idm"

_INSTALL = """\
set -eu
umask 077
[ -d /run/systemd/system ] || exit {no_systemd:d}
command -v tar >/dev/null && command -v cmp >/dev/null || exit {no_tools:d}
state() {{ systemctl show --value --property="$1" {unit}; }}
own=
[ -z "$(state FragmentPath)" ] || grep -qsxF {mark} {unit_path} || own=yes
[ "$own" ] || [ -x {program} ] || exit {no_program:d}
tar -xpf - -C /
stale=
place() {{
    if cmp -s "$1{fresh}" "$1"; then rm "$1{fresh}"; return; fi
    mv -f "$1{fresh}" "$1"
    ! command -v restorecon >/dev/null || restorecon "$1"
    [ "$2" = live ] || stale=yes
}}
if [ "$own" ]; then rm {unit_path}{fresh}; else place {unit_path} cold; fi
{places}
[ -z "$stale" ] || systemctl daemon-reload
[ "$(state UnitFileState)" = enabled ] || systemctl --quiet enable {unit}
if [ "$stale" ]; then systemctl --no-block restart {unit}; else systemctl --no-block start {unit}; fi
"""

_REMOVE = """\
set -u
if [ -d /run/systemd/system ]; then
    if grep -qsxF {mark} {unit_path}; then
        systemctl --quiet disable --now {unit}
        rm -f {unit_path}
        systemctl daemon-reload
    else
        systemctl --quiet stop {unit}
    fi
fi
rm -f {paths}
rmdir {directories} 2>/dev/null
exit 0
"""


class Refusal(IntEnum):
    """How the script ends when this guest cannot be served; any other status but 0 is a failure on the way."""

    NO_SYSTEMD = 90
    NO_TOOLS = 91
    NO_PROGRAM = 92


def unit_path(unit: str) -> str:
    """Where a unit's file is put; all instances of a template share one."""
    name, at, _ = unit.partition("@")
    return f"{UNITS}/{name}@.service" if at else f"{UNITS}/{name}"


def install(payload: Payload) -> str:
    """Unpacks :func:`parcel` from standard input, then enables and starts the unit.

    Only what differs is replaced, each file whole and under nobody's eyes; a unit that has to read something anew is
    restarted. It waits for nothing, since a guest may still be booting.
    """
    places = (f"place {quote(file.path)} {'live' if file.live else 'cold'}" for file in payload.files)
    return _INSTALL.format(
        no_systemd=Refusal.NO_SYSTEMD,
        no_tools=Refusal.NO_TOOLS,
        no_program=Refusal.NO_PROGRAM,
        program=quote(payload.program),
        fresh=FRESH,
        unit=quote(payload.unit),
        unit_path=quote(unit_path(payload.unit)),
        mark=quote(MARK),
        places="\n".join(places),
    )


def remove(unit: str, paths: Sequence[str]) -> str:
    """Stops a unit and deletes what was put there, the unit's own file if it was; harmless when nothing was."""
    # Not those that every system has, as /etc.
    parents = {parent for path in paths for parent in PurePosixPath(path).parents if len(parent.parts) > 2}
    directories = sorted(map(str, parents), reverse=True)
    return _REMOVE.format(
        unit=quote(unit),
        unit_path=quote(unit_path(unit)),
        mark=quote(MARK),
        paths=" ".join(map(quote, paths)),
        directories=" ".join(map(quote, directories)),
    )


def parcel(payload: Payload) -> bytes:
    """The files of a payload, its unit's too, as :func:`install` wants them."""
    unit = File(unit_path(payload.unit), f"{MARK}\n".encode() + payload.unit_file, PUBLIC)
    return archive((unit, *payload.files), suffix=FRESH)
