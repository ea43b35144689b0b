"""The files that a configuration is read from, so that a reload can say which of them changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from listener.settings import Settings
from listener.sources.filesystem.mounts import mount_of

__all__ = ["PINNED_HINT", "InputFiles"]

PINNED_HINT: Final = (
    "the file was replaced on the host, and this mount still shows the removed one: mount its directory"
    " instead of the file, or restart with a fresh mount"
)
_BUNDLES: Final = frozenset({"AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"})
_LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A bundle of all public CAs has some 250 kB; of larger files only the beginning is compared."""


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The digests of configuration, keys, certificates and CA bundles at one moment."""

    digests: Mapping[Path, str] = field(default_factory=dict)
    """Path to a digest of its bytes, empty for a file that cannot be read."""
    pinned: tuple[Path, ...] = ()
    """Files below a mount whose origin was removed: their replacement is not visible here."""

    @classmethod
    def read(cls, settings: Settings, environ: Mapping[str, str]) -> InputFiles:
        """Read every file that these settings and this environment name. Blocking."""
        paths = list(dict.fromkeys(_named(settings, environ)))
        mounts = {path: mount_of(path) for path in paths}
        pinned = tuple(path for path, mount in mounts.items() if mount is not None and mount.is_deleted)
        return cls({path: _digest(path) for path in paths}, pinned)

    def changed_since(self, before: InputFiles) -> list[Path]:
        """Return the files that are new, gone or differ."""
        paths = dict.fromkeys((*before.digests, *self.digests))
        return [path for path in paths if before.digests.get(path) != self.digests.get(path)]


def _named(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    if settings.origin.path is not None:
        yield settings.origin.path
    for name, value in sorted(environ.items()):
        if value and (name.endswith("_FILE") or name in _BUNDLES) and Path(value).is_file():
            yield Path(value)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and os.access(directory, os.R_OK | os.X_OK):
        yield from sorted(path for path in Path(directory).iterdir() if path.is_file())
    yield from _in_tables({**settings.sources, **{f"targets.{name}": one for name, one in settings.targets.items()}})


def _in_tables(value: Any) -> Iterator[Path]:
    """Yield the absolute paths of files among the values of plugins' tables, such as ``tls_certificate``."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _in_tables(item)
    elif isinstance(value, str) and value.startswith("/") and os.path.isfile(value):  # noqa: PTH113 - never raises
        yield Path(value)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_LARGEST_BYTES)).hexdigest()
    except OSError:
        return ""
