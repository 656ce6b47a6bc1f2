"""Commands about machines that are there already, against libvirt's own test hypervisor."""

import os

from idm import manifest
from tests.idm.hypervisor import Command

NOBODYS_ID = 65534


def test_domains_that_run_are_adopted(idm: Command) -> None:
    """A pattern names them; the manifest has them with their addresses, belongs to the project, and is never lost."""
    if os.geteuid() == 0:
        os.chown(idm.manifest.parent, NOBODYS_ID, NOBODYS_ID)
    assert idm("adopt", "proj_*").exit_code == 0
    assert idm.manifest.stat().st_uid == idm.manifest.parent.stat().st_uid
    read = manifest.load(idm.manifest)
    assert (read.stack.name, read.network.libvirt) == ("project", "wide")
    assert {name: vcd.domain for name, vcd in read.vcd.items()} == {"a": "proj_a", "b": "proj_b"}
    assert all(vcd.address.startswith("198.18.") for vcd in read.vcd.values())
    again = idm("adopt", "proj_*")
    assert again.exit_code == 1
    assert again.stderr == f"idm: {idm.manifest} is there already: remove it, or name another by --file\n"


def test_what_cannot_be_adopted_is_told(idm: Command) -> None:
    """Names of nothing, and guests that do not answer though they are to be waited for, leave no manifest."""
    assert idm("adopt", "other").stderr == "idm: no domain of that name runs: see virsh list\n"
    silent = idm("adopt", "--wait", "0.1", "proj_a")
    assert silent.stderr == (
        "idm: no guest agent answers in proj_a: install and start qemu-guest-agent there\n"
    )
    unreachable = idm("adopt", "--wait", "60", "proj_b")
    assert unreachable.stderr.startswith(
        "idm: proj_b has no channel to a guest agent: add it to its definition"
    )
    assert not idm.manifest.exists()
