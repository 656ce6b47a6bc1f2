"""Machines that run on the hypervisor become a manifest: what is asked of them, and where it is written."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from idm.adopt import draft, label
from idm.choice import Choice
from idm.errors import DeployError

if TYPE_CHECKING:
    from idm.drivers.libvirt_connection import Hypervisor

ASK_AGAIN_S = 0.5


@contextmanager
def hypervisor_of(choice: Choice) -> Iterator["Hypervisor"]:
    """This host's, as its settings say. Raises :class:`DeployError` without libvirt."""
    try:
        # Only here: a host of containers need not have it.
        from idm.drivers.libvirt_connection import Hypervisor
    except ImportError as e:
        raise DeployError(
            f"libvirt's Python binding is missing ({e}): apt-get install python3-libvirt"
        ) from e
    hypervisor = Hypervisor(choice.settings().libvirt.uri)
    try:
        yield hypervisor
    finally:
        hypervisor.close()


def drafted(
    choice: Choice, hypervisor: "Hypervisor", domains: Sequence[str], *, name: str | None, wait_s: float
) -> str:
    """The manifest, once the domains' guest agents answer or the time is up. Raises :class:`DeployError`."""
    from idm.drivers import libvirt_found

    if wait_s and (unreachable := libvirt_found.unreachable(hypervisor, domains)):
        raise DeployError(
            f"{unreachable[0]} has no channel to a guest agent: add it to its definition, or have vagrant make it anew"
        )
    deadline = time.monotonic() + wait_s
    while silent := libvirt_found.silent(hypervisor, domains):
        if time.monotonic() > deadline:
            break
        # Guests tell nobody that their agent is up; they have to be asked.
        time.sleep(ASK_AGAIN_S)
    if silent and wait_s:
        raise DeployError(f"no guest agent answers in {silent[0]}: install and start qemu-guest-agent there")
    found = libvirt_found.running(hypervisor, domains)
    stack = name or label(choice.project.name)
    return draft(stack, found, libvirt_found.places(hypervisor, found))


def put(path: Path, text: str) -> None:
    """Write a manifest, which belongs to the owner of its directory."""
    path.write_text(text)
    if os.geteuid() == 0:
        # Who calls this by sudo is to change it without.
        place = path.absolute().parent.stat()
        os.chown(path, place.st_uid, place.st_gid)
