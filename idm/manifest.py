"""The stack manifest: a TOML file that says which VCDs there are and how they are judged and rolled back."""

import hashlib
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec


class ManifestError(Exception):
    """The manifest cannot be used; the message names the place and what to write there."""


class Mode(Enum):
    """How far the manager may go by itself."""

    OBSERVE = "observe"
    APPROVE = "approve"
    AUTO = "auto"


class Vcd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One VM or container. ``name`` is filled from the table's key."""

    name: str = ""
    image: str
    command: tuple[str, ...] = ()
    address: str = ""
    environment: dict[str, str] = {}
    after: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


class Stack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stack's own name, and the driver that runs it."""

    name: str
    driver: str = "podman"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The private network that is created with the stack, and names known on it besides the VCDs' own."""

    subnet: str
    hosts: dict[str, str] = {}


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the agents report."""

    interval_ms: int = 1000


class Judge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds are shares of the golden edges (0 to 1); times in seconds."""

    stack_threshold: float = 0.20
    vcd_threshold: float = 0.20
    confirm_s: float = 3.0
    launch_slack_s: float = 5.0
    count_external: bool = False


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits on what is done without a person."""

    mode: Mode = Mode.AUTO
    attempts_per_vcd: int = 2
    attempts_per_stack: int = 4
    at_once: int = 1
    cooldown_s: float = 10.0
    keep_last: int = 5


class Smoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workload that exercises every dependency; it runs inside ``vcd`` and exits 0 when the stack answered rightly."""

    vcd: str
    command: tuple[str, ...]
    timeout_s: float = 60.0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole stack."""

    stack: Stack
    network: Network
    vcd: dict[str, Vcd]
    agent: Agent = Agent()
    judge: Judge = Judge()
    rollback: Rollback = Rollback()
    smoke: Smoke | None = None
