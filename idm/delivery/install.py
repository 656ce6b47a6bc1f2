"""Brings a program's bundle into guests that run."""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from idm.delivery.bundle import Bundle, available
from idm.delivery.contents import PARENT, Role
from idm.delivery.guest import DeliveryError, Shell
from idm.driver import Completed, DriverError

# The volume label of the seed disk.
LABEL = "CIDATA"
# Where nobody but root can put anything.
PLACE = "/var/lib/stackmend-bundle"
# Unpacking a thousand files takes ten seconds where instructions are emulated, and compiling them as long again.
UNPACK_S = 300.0
SHORT_S = 30.0

Bundles = Mapping[str, Bundle]

# Finds among the bundles in the directory $1, or else on the seed disk, one that fits a Python of the guest, and makes
# it an environment of the guest's own, unless that has one of the digests $2 already. It is asked for its version at
# the end: this compiles what it imports, and shows that it runs.
SCRIPT = """\
set -u
umask 022
exec 9>/run/stackmend-install.lock
if command -v flock >/dev/null; then flock 9; fi
home={home} link=/usr/local/bin/{program} from=$1 mounted= bundle= abis=
if [ -x $link ] && [ "$(readlink $link)" != $home/bin/{program} ]; then exit 0; fi
case " $2 " in *" $(cat $home/digest 2>/dev/null || echo none) "*) exit 0 ;; esac
leave() {{
    [ -z "$mounted" ] || umount "$mounted" || return
    rm -rf {place}
}}
trap leave EXIT
mkdir -p -m 0700 "$from"
if [ -z "$(ls "$from")" ]; then
    if mount -o ro LABEL={label} "$from" 2>/dev/null; then mounted=$from; fi
fi
for python in /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] /usr/local/bin/python3; do
    [ -x $python ] || continue
    abi=$($python -Ic 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
    abis="$abis $abi"
    for bundle in "$from/{program}.$abi".*.tar.gz; do
        [ ! -e "$bundle" ] || break 2
    done
    bundle=
done
if [ -z "$abis" ]; then exit {no_python:d}; fi
if [ -z "$bundle" ]; then echo "$abis"; exit {no_bundle:d}; fi
set -e
rm -rf $home.new
mkdir -p $home.new /usr/local/bin
tar -xzf "$bundle" -C $home.new --no-same-owner
sed -i "s|^home = .*|home = ${{python%/*}}|" $home.new/pyvenv.cfg
ln -s $python $home.new/bin/python
rm -rf $home
mv $home.new $home
if command -v restorecon >/dev/null; then restorecon -R $home; fi
$home/bin/{program} --version || {{ rm -rf $home; exit {broken:d}; }}
ln -sfn $home/bin/{program} $link
[ ! -d /run/systemd/system ] || systemctl --no-block try-restart 'stackmend-*'
"""

REMOVE = """\
link=/usr/local/bin/{program}
if [ "$(readlink $link)" = {home}/bin/{program} ]; then rm $link; fi
rm -rf {home}
rmdir {parent} 2>/dev/null
"""


class Refusal(IntEnum):
    """How the script ends when it installs nothing; any other status but 0 is a failure on the way."""

    NO_PYTHON = 93
    NO_BUNDLE = 94
    BROKEN = 95


class BundleInstaller:
    """Installs from bundles in a directory of this host, whose own one is made when it is not there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def install(self, shell: Shell, vcd: str, program: str) -> None:
        """Leave the program in the guest, harmless when it has it. Raises ``DeliveryError`` and ``DriverError``."""
        role = Role(program.rpartition("/")[2])
        bundles = available(self._directory, role)
        end = _run(shell, vcd, role, bundles)
        if end.status == Refusal.NO_BUNDLE:
            _put(shell, vcd, _fitting(vcd, end.output.split(), bundles))
            end = _run(shell, vcd, role, bundles)
        _check(vcd, end)


def uninstall(shell: Shell, vcd: str) -> None:
    """Take out whatever was installed; harmless when nothing was. Raises ``DriverError``."""
    scripts = "".join(_fill(REMOVE, role) for role in Role)
    shell.execute(vcd, ("sh", "-c", scripts), timeout_s=SHORT_S)


def command(role: Role, bundles: Iterable[Bundle]) -> tuple[str, ...]:
    """What installs a fitting one of these, when they are in :data:`PLACE` of a guest or on its seed disk."""
    digests = " ".join(bundle.digest for bundle in bundles)
    return ("sh", "-c", _fill(SCRIPT, role), "install", PLACE, digests)


def _run(shell: Shell, vcd: str, role: Role, bundles: Bundles) -> Completed:
    return shell.execute(vcd, command(role, bundles.values()), timeout_s=UNPACK_S)


def _fitting(vcd: str, abis: Sequence[str], bundles: Bundles) -> Bundle:
    for abi in abis:
        if abi in bundles:
            return bundles[abi]
    raise DeliveryError(
        f"{vcd} has {', '.join(dict.fromkeys(abis))}, there are bundles for {', '.join(sorted(bundles))}: "
        "make one by idm bundle on a host with that Python, or install the agent in the image"
    )


def _put(shell: Shell, vcd: str, found: Bundle) -> None:
    made = shell.execute(vcd, ("sh", "-c", f"rm -rf {PLACE} && mkdir -m 0700 {PLACE}"), timeout_s=SHORT_S)
    if made.status:
        raise DriverError(f"{vcd} takes no files: {_last(made)}: see that /var/lib can be written there")
    shell.write(vcd, f"{PLACE}/{found.path.name}", found.path.read_bytes())


def _check(vcd: str, end: Completed) -> None:
    if end.status == Refusal.NO_PYTHON:
        raise DeliveryError(f"{vcd} has no python3: install it there, or the agent in its image")
    if end.status == Refusal.BROKEN:
        raise DeliveryError(f"{vcd} cannot run the bundle, {_last(end)}: make one on an older system")
    if end.status:
        raise DriverError(f"{vcd} does not take the bundle: {_last(end)}: look at the disk space there")


def _last(end: Completed) -> str:
    lines = end.output.strip().splitlines()
    return lines[-1] if lines else f"status {end.status}"


def _fill(template: str, role: Role) -> str:
    return template.format(
        home=role.home,
        parent=PARENT,
        place=PLACE,
        label=LABEL,
        program=role.value,
        no_python=Refusal.NO_PYTHON,
        no_bundle=Refusal.NO_BUNDLE,
        broken=Refusal.BROKEN,
    )
