"""Ways to break the shop for real. Only ``misconfig`` and ``partition`` leave the process able to run."""

from collections.abc import Sequence
from typing import Protocol

# Inside the shop's subnet; no VCD has it.
NOBODY = "198.18.10.99"

KILL = 'kill -s KILL -- "-$(cat /run/shop.pid)"'


class Target(Protocol):
    """A running stack."""

    def run(self, vcd: str, command: Sequence[str]) -> None:
        """Run a command inside a VCD as root; an exception when it fails."""

    def load_filter(self, vcd: str, rules: str) -> None:
        """Load rules of nftables where the VCD's packets pass; they go away when it is taken back."""


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
    """Drop all that goes in or out, as a broken firewall does."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; policy drop; {via} lo accept; }}\n"
        for hook, via in (("input", "iifname"), ("output", "oifname"))
    )
    target.load_filter(vcd, f"table inet broken {{\n{chains}}}\n")


def corrupt(target: Target, vcd: str) -> None:
    """Overwrite the data of cache or db and kill the server, so that it cannot start on what is left."""
    data = f"/var/lib/shop/{vcd}"
    ruin = f"test -d {data}; find {data} -type f -exec sh -c 'for f; do echo ruined > \"$f\"; done' sh {{}} +"
    target.run(vcd, ["sh", "-ec", f"{ruin}; {KILL}"])


def ruin_disk(target: Target, vcd: str) -> None:
    """Overwrite where a VM's file system tells what is on its disk, and kill the server, which is then not found."""
    # Only what the shell has in itself is sure to be there afterwards.
    ruin = "dd if=/dev/zero of=/dev/vda bs=1M count=64 oflag=direct status=none; echo 3 > /proc/sys/vm/drop_caches"
    target.run(vcd, ["sh", "-ec", f'read -r service < /run/shop.pid; {ruin}; kill -s KILL -- "-$service"'])
