"""What every command of ``idm`` is told: which stack, on which host."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from idm import settings
from idm.settings import Settings
from idm.site import open_stack
from idm.stack import Stack


@dataclass(frozen=True)
class Choice:
    """The stack's manifest, and this host's settings."""

    manifest: Path
    config: Path | None

    @property
    def project(self) -> Path:
        """The directory that the manifest is in, or will be."""
        return self.manifest.absolute().parent

    @contextmanager
    def stack(self) -> Iterator[Stack]:
        """The stack, with its driver open."""
        with open_stack(self.manifest, self.config) as stack:
            yield stack

    def settings(self) -> Settings:
        """This host's settings. Raises ``SettingsError``."""
        return settings.load(self.config)
