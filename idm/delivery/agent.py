"""What the agent of a VCD gets. Pure, but for the certificates that it reads."""

import json
from importlib.resources import files

from dm.client import Tls
from idm.delivery.payload import PUBLIC, File, Payload
from idm.manifest import Agent

CONFIGURATION = "/etc/stackmend/agent.toml"
CA, CERTIFICATE = "/etc/stackmend/tls/ca.pem", "/etc/stackmend/tls/agent.pem"
PATHS = (CONFIGURATION, CA, CERTIFICATE)
UNIT, PROGRAM = "stackmend-dma.service", "/usr/local/bin/dma"


def agent_payload(*, manager: str, stack: str, vcd: str, agent: Agent, tls: Tls, naming: str = "") -> Payload:
    """The configuration of an agent that reports to ``manager`` (ADDRESS:PORT) with this certificate.

    ``naming`` are more lines of it.
    """
    settings: dict[str, str | int] = {"dm": manager, "stack": stack, "vcd": vcd}
    settings |= {"interval_ms": agent.interval_ms, "plan": agent.plan.value}
    configuration = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    configuration += naming
    configuration += f'\n[tls]\nca = "{CA}"\ncertificate = "{CERTIFICATE}"\n'
    return Payload(
        unit=UNIT,
        unit_file=files("idm").joinpath("units", UNIT).read_bytes(),
        program=PROGRAM,
        files=(
            File(CONFIGURATION, configuration.encode(), PUBLIC),
            # Both are read again at each connection, so that renewed ones need no restart.
            File(CA, tls.ca.read_bytes(), PUBLIC, live=True),
            File(CERTIFICATE, tls.certificate.read_bytes(), live=True),
        ),
    )
