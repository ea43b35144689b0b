"""The emulator's settings, and the parsers of its command-line options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from listener.alibaba.signature import Credentials
from listener.clock import Clock, SystemClock
from listener.emulator.faults import ACTIONS, Fault
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

__all__ = ["CALLS_PER_SECOND", "EmulatorSettings", "credentials_from_environment", "parse_address", "parse_quota"]

KEY_ID_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_ID"
KEY_SECRET_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"  # noqa: S105 - the name of a variable, not its value

CALLS_PER_SECOND: Final[Mapping[str, int]] = dict(zip(ACTIONS, (50, 50, 10, 30, 20), strict=True))
"""The vendor's figures for each action and account; its newest pages say 5 for DescribeRefreshTasks."""
QUOTA: Final[Mapping[RefreshKind, int]] = {
    RefreshKind.FILE: 10_000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.PREFETCH: 1_000,
    RefreshKind.IGNORE_PARAMS: 100,
}
"""Units a day of an account as it is today; older ones have 2,000 files."""
QUOTA_ORDER: Final = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH, RefreshKind.IGNORE_PARAMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """Everything that can be set."""

    origin: str
    """A directory, or an http(s) URL."""
    credentials: Credentials
    """The one access key that may call; with a security token set, calls must carry it."""
    api_host: str = "127.0.0.1"
    api_port: int = 8700
    """0 takes a free port; ``Emulator.api_url`` has it."""
    edge_host: str = "127.0.0.1"
    edge_port: int = 8701
    task_seconds: float = 1.0
    """From the acceptance of a refresh to its effect at the edge; 300 to 360 at Alibaba."""
    quota: Mapping[RefreshKind, int] = field(default_factory=lambda: dict(QUOTA))
    """Units a day; kinds that are left out keep the vendor's figure."""
    faults: tuple[Fault, ...] = ()
    domains: tuple[str, ...] = ()
    """The domains of the account, with or without a port; empty for any."""
    calls_per_second: Mapping[str, int] = field(default_factory=lambda: dict(CALLS_PER_SECOND))
    """By action; actions that are left out keep the vendor's figure."""
    urls_per_domain_minute: int = 10_000
    """The vendor's newest figure; 1,000 in older pages."""
    directories_per_domain_minute: int = 100
    ttl_seconds: float | None = None
    """How long the edge considers a copy fresh; ``None``: until it is refreshed."""
    missing_ttl_seconds: float | None = None
    """The same for the answer that there is no such object."""
    cache_bytes: int = 1024 * 1024 * 1024
    """Size of the edge's cache; beyond it, the least recently used bodies are dropped."""
    index_documents: tuple[str, ...] = ("index.html",)
    """What a directory of the origin serves for a path that ends with ``/``."""
    journal: Path | None = None
    """A file that gets a JSON line for each accepted request."""
    clock: Clock = field(default_factory=SystemClock)
    """The clock for tasks, windows and time stamps; in virtual time, pass one that follows the loop's."""


def credentials_from_environment(environment: Mapping[str, str] = os.environ) -> Credentials:
    """Return the access key that the client is given too. Raise :class:`ConfigurationError` naming what is missing."""
    missing = [name for name in (KEY_ID_VARIABLE, KEY_SECRET_VARIABLE) if not environment.get(name)]
    if missing:
        raise ConfigurationError(
            f"The emulator has no access key to check signatures with: {' and '.join(missing)} not set.",
            hint="Set both to any value, and give the client the same; the emulator needs no real account.",
        )
    return Credentials(environment[KEY_ID_VARIABLE], environment[KEY_SECRET_VARIABLE])


def parse_quota(text: str) -> dict[RefreshKind, int]:
    """Read ``FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]``. Raise :class:`ConfigurationError` for anything else."""
    numbers = [part.strip() for part in text.split(",")]
    if not 2 <= len(numbers) <= len(QUOTA_ORDER) or not all(part.isascii() and part.isdecimal() for part in numbers):
        raise ConfigurationError(
            f"The quota {text!r} cannot be read.", hint="Its form is FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]."
        )
    return {**QUOTA, **dict(zip(QUOTA_ORDER, map(int, numbers), strict=False))}


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``. Raise :class:`ConfigurationError` for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not int(port) < 65536:
        raise ConfigurationError(
            f"The address {text!r} cannot be read.", hint="Its form is HOST:PORT, as 127.0.0.1:8700."
        )
    return host.strip("[]"), int(port)
