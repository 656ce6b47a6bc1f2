"""Ways to break the shop for real. Only ``misconfig`` and ``partition`` leave the process able to run."""

import subprocess
from collections.abc import Sequence
from typing import Protocol

# Inside the shop's subnet; no VCD has it.
NOBODY = "198.18.10.99"

KILL = 'kill -s KILL -- "-$(cat /run/shop.pid)"'


class Target(Protocol):
    """A running stack."""

    def run(self, vcd: str, command: Sequence[str]) -> None:
        """Run a command inside a VCD as root; an exception when it fails."""

    def pid(self, vcd: str) -> int:
        """A process of this machine that is in the VCD's network namespace."""


def crash(target: Target, vcd: str) -> None:
    """Kill the service and take away its program, so that no restart brings it back."""
    remove = 'for f in /srv/shop/services/"$0".*; do mv "$f" "$f.lost"; done'
    target.run(vcd, ["sh", "-ec", f"{remove}; {KILL}", vcd])


def misconfig(target: Target, vcd: str, key: str, value: str) -> None:
    """Write another address for one dependency, and restart the service with it."""
    edit = 'grep -q "^$1 = " "$0"; sed -i "s|^$1 = .*|$1 = \\"$2\\"|" "$0"'
    restart = KILL.replace("KILL", "TERM")
    target.run(vcd, ["sh", "-ec", f"{edit}; {restart}", f"/etc/shop/{vcd}.toml", key, value])


def partition(target: Target, vcd: str) -> None:
    """Drop all that goes in or out, as a broken firewall does; it goes away with the VCD's network namespace."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; policy drop; {via} lo accept; }}\n"
        for hook, via in (("input", "iifname"), ("output", "oifname"))
    )
    subprocess.run(
        ["nsenter", f"--net=/proc/{target.pid(vcd)}/ns/net", "nft", "-f", "-"],
        input=f"table inet broken {{\n{chains}}}\n",
        text=True,
        check=True,
        timeout=10,
    )


def corrupt(target: Target, vcd: str) -> None:
    """Overwrite the data of cache or db and kill the server, so that it cannot start on what is left."""
    data = f"/var/lib/shop/{vcd}"
    ruin = f"test -d {data}; find {data} -type f -exec sh -c 'for f; do echo ruined > \"$f\"; done' sh {{}} +"
    target.run(vcd, ["sh", "-ec", f"{ruin}; {KILL}"])
