"""What a person's words for a backfill mean: modes, times, and which source or keys to list."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from listener.backfill.job import Mode
from listener.backfill.listing import KeyList, Listing, TreeListing
from listener.errors import ConfigurationError
from listener.plugins import load_sources
from listener.settings import Settings, nearest
from listener.sources.filesystem import FilesystemSettings

__all__ = ["choose_listing", "choose_source", "parse_modes", "parse_moment"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_modes(text: str) -> list[Mode]:
    """Return the modes that a text names, separated by commas; raise ConfigurationError for anything else."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in {mode.value for mode in Mode}]
    if unknown or not names:
        raise ConfigurationError(
            f"--mode: {text!r} is no mode", hint=f"Modes are {', '.join(mode.value for mode in Mode)}."
        )
    return sorted({Mode(name) for name in names})


def parse_moment(text: str, *, now: float) -> float:
    """
    Return the time that a text names, in seconds since the epoch.

    A span before ``now`` (``90m``, ``36h``, ``7d``), or ISO 8601, in UTC where it names no zone.
    Raises :class:`~listener.errors.ConfigurationError` for anything else.
    """
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdecimal():
        return now - float(number) * _UNITS[unit]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since: {text!r} is no time", hint="write 2026-01-31T08:00Z, or a span: 90m, 36h, 7d"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def choose_source(settings: Settings, name: str | None) -> str | None:
    """
    Return the source of this name; without one, the only source that sites have, None where they have several.

    Raises :class:`~listener.errors.ConfigurationError` for a name that is no source.
    """
    if name is None:
        names = {site.source for site in settings.sites}
        return names.pop() if len(names) == 1 else None
    if name not in settings.sources:
        raise ConfigurationError(f"there is no source {name!r}", hint=nearest(name, settings.sources))
    return name


def choose_listing(
    settings: Settings, name: str, *, lines: Iterable[bytes] | None, prefix: str = "", since: float | None = None
) -> Listing:
    """
    Return what is to be listed: the tree of a source, or keys of it.

    Args:
        settings: the configuration.
        name: the source.
        lines: its keys, one a line; None for everything that it holds.
        prefix: only keys that start so.
        since: only files changed since then, in seconds since the epoch.

    Raises:
        ConfigurationError: the source cannot be listed, or only without some of these.
    """
    load_sources(settings)  # wrong tables are told here, with their keys
    table = settings.sources[name]
    tree = FilesystemSettings.model_validate(table) if table["type"] == "filesystem" else None
    if lines is not None:
        if since is not None:
            raise ConfigurationError("--since: a list of keys tells no times", hint="leave --since or --from out")
        return KeyList(name, lines, prefix=prefix, tree=None if tree is None else tree.path)
    if tree is None:
        raise ConfigurationError(
            f"sources.{name}: a source of type {table['type']!r} cannot be listed",
            hint="give its keys with --from FILE, or - for stdin",
        )
    return TreeListing(name, tree, prefix=prefix, since=since)
