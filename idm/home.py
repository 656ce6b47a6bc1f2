"""Where a stack's files are: the state directory survives the stack, the run directory dies with it."""

from dataclasses import dataclass
from pathlib import Path

from idm.errors import DeployError

# sockaddr_un.sun_path holds 108 bytes with its closing zero.
MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class Home:
    """The two directories of one stack, and the files in them."""

    state: Path
    run: Path

    @property
    def socket(self) -> Path:
        """The manager's socket."""
        return self.run / "dm.sock"

    @property
    def target(self) -> str:
        """The manager's address, in gRPC's form."""
        return f"unix:{self.socket}"

    @property
    def manager_store(self) -> Path:
        """The manager's database: golden images and history."""
        return self.state / "dm.sqlite"

    @property
    def journal(self) -> Path:
        """The deployer's own database."""
        return self.state / "idm.sqlite"

    @property
    def authority(self) -> Path:
        """The stack's certificate authority and what it has issued."""
        return self.state / "ca"

    @property
    def naming(self) -> Path:
        """How the agents on this host find names: their configuration file."""
        return self.run / "naming.toml"

    @property
    def deployer_lock(self) -> Path:
        """Held by the one process that deploys this stack."""
        return self.run / "idm.lock"

    @property
    def snapshot_lock(self) -> Path:
        """Held while snapshots are taken, used or deleted."""
        return self.run / "snapshots.lock"

    def evidence(self, operation: str) -> Path:
        """Where the evidence of one operation is saved."""
        return self.state / "evidence" / operation

    def create(self) -> None:
        """Make both directories, readable by their owner alone. Raises :class:`DeployError`."""
        for directory in (self.state, self.run):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as e:
                raise DeployError(
                    f"cannot create {directory}: {e.strerror} (run as root, or set other paths)"
                ) from e


def locate(stack: str, vcds: list[str], *, state: Path, run: Path) -> Home:
    """The home of a stack below the host's two directories.

    Raises :class:`DeployError` when one of its sockets would have a path too long for the kernel.
    """
    home = Home(state=state.absolute() / stack, run=run.absolute() / stack)
    longest = max([str(home.socket), *(str(home.run / f"agent-{vcd}.ready") for vcd in vcds)], key=len)
    if (length := len(longest.encode())) > MAX_SOCKET_PATH_BYTES:
        raise DeployError(
            f"the socket path {longest} has {length} bytes, {MAX_SOCKET_PATH_BYTES} are possible: "
            "set a shorter run directory or stack name"
        )
    return home
