"""What is told of instances beside what their driver says."""

import asyncio

from idm.driver import Instance, Power
from idm.observe import Observer
from tests.idm.memory import MemoryDriver


def test_who_stands_still_for_a_snapshot_is_held() -> None:
    """While another process saves the stack, paused machines are in its hands; those that run, or crashed, are not."""
    driver = MemoryDriver()
    powers = {"db": Power.PAUSED, "api": Power.RUNNING, "cache": Power.CRASHED}
    for vcd, power in powers.items():
        driver.present[vcd] = Instance(vcd, power, "1", None, None)
    saves = True
    told: list[Instance] = []
    observer = Observer(driver, list(powers), on_change=told.append, saving=lambda: saves)
    asyncio.run(observer.refresh())
    assert {one.vcd: one.held for one in told} == {
        "db": "stands still for a snapshot of the stack",
        "api": "",
        "cache": "",
    }
    saves = False
    told.clear()
    asyncio.run(observer.refresh())
    assert [(one.vcd, one.held) for one in told] == [("db", "")]
