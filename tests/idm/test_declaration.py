"""What the manager is told of a manifest and its instances."""

import pytest

from idm.declaration import report
from idm.driver import Instance, Power
from idm.manifest import Vcd


@pytest.mark.parametrize(
    ("domain", "power", "why"),
    [
        (
            "lab_db",
            Power.ABSENT,
            'db has no domain "lab_db" of its own: idm up adopts it once it is there again',
        ),
        ("lab_db", Power.CRASHED, ""),
        ("", Power.ABSENT, ""),
    ],
)
def test_an_existing_domain_that_is_gone_cannot_be_taken_back(domain: str, power: Power, why: str) -> None:
    """Its snapshots went with it; what a driver made itself, such as a container, may be made anew from one."""
    instance = Instance("db", power, "", None, None)
    assert report(instance, Vcd(name="db", domain=domain)).unrevertible == why
