"""The manager in a VM of its stack: what that one gets, and its start."""

import asyncio
import time
from importlib.resources import files

from dm.client import Tls
from idm.delivery.guest import Installer, Shell, journal, provide
from idm.delivery.payload import PUBLIC, File, Payload
from idm.driver import DriverError
from idm.errors import DeployError
from idm.manager import Access, answers

PROGRAM = "/usr/local/bin/dm"
# A VM that has just been started boots first.
READY_S = 400.0
AGAIN_S = 0.5


def unit(stack: str) -> str:
    """The manager's service."""
    return f"stackmend-dm@{stack}.service"


def paths(stack: str) -> tuple[str, str, str]:
    """Its settings, its CA, and its certificate with the key."""
    directory = f"/etc/stackmend/dm/{stack}"
    return f"{directory}.env", f"{directory}/ca.pem", f"{directory}/manager.pem"


def manager_payload(*, stack: str, listen: str, tls: Tls) -> Payload:
    """A manager that listens at ``listen`` (ADDRESS:PORT) with this certificate."""
    settings, ca, certificate = paths(stack)
    environment = (
        f"STACKMEND_DM_LISTEN=--listen {listen}\nSTACKMEND_TLS_CA={ca}\nSTACKMEND_TLS_CERT={certificate}\n"
    )
    return Payload(
        unit=unit(stack),
        unit_file=files("idm").joinpath("units", "stackmend-dm@.service").read_bytes(),
        program=PROGRAM,
        files=(
            File(settings, environment.encode(), PUBLIC),
            File(ca, tls.ca.read_bytes(), PUBLIC, live=True),
            File(certificate, tls.certificate.read_bytes(), live=True),
        ),
    )


async def seat(
    shell: Shell, vcd: str, payload: Payload, access: Access, *, installer: Installer | None
) -> None:
    """Have the manager run in its VM, and wait until it answers.

    Raises :class:`DeployError` that says why it does not.
    """
    deadline, delivered, problem = time.monotonic() + READY_S, False, ""
    while not (delivered and await answers(access)):
        if time.monotonic() > deadline:
            said = await asyncio.to_thread(journal, shell, vcd, payload.unit) if delivered else problem
            raise DeployError(f"the manager in {vcd} does not answer at {access.target}: {said}")
        if not delivered:
            try:
                await asyncio.to_thread(provide, shell, vcd, payload, installer)
                delivered = True
            except DriverError as e:
                problem = str(e)
        await asyncio.sleep(AGAIN_S)
