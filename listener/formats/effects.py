"""What a vendor's event name means to a cache, and the lookup that all its tables share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["Effect", "meaning"]


class Effect(Enum):
    """What an event did to the object that a URL shows."""

    CONTENT = auto()
    """It is new, or its bytes changed."""
    METADATA = auto()
    """Only its headers or who may read it changed."""
    GONE = auto()
    """It is no longer there, whatever versions are."""
    REMOVED = auto()
    """It, or one version of it, was removed: gone where the event names no version. Where it names one,
    another version, or none, may show now."""
    NOTHING = auto()
    """A cache may go on serving what it has."""


def meaning(table: Mapping[str, Effect], name: str) -> Effect | None:
    """
    Return what a name means: its own row, else the row of its family (``ObjectCreated:*``), else ``None``.

    The row of a family covers the names that a vendor adds later.
    """
    effect = table.get(name)
    if effect is None and (cut := name.rfind(":")) > 0:
        return meaning_of_family(table, name[:cut])
    return effect


def meaning_of_family(table: Mapping[str, Effect], family: str) -> Effect | None:
    """Return the row of a family or of the one that it belongs to."""
    while (effect := table.get(f"{family}:*")) is None and (cut := family.rfind(":")) > 0:
        family = family[:cut]
    return effect
