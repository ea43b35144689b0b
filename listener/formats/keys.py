"""
The form of our own, for scripts: ``{"keys": ["a/b.html"], "deleted": ["old.html"]}``.

Keys stand as they are, not percent-encoded, with or without a ``/`` before them. ``"bucket"`` says whose they are,
where the source accepts several buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from listener.formats.reading import Effect, Tally, Unreadable, load, raw_key, text

__all__ = ["is_keys", "is_own", "read_keys"]

_EFFECTS: Final = {"keys": Effect.CONTENT, "deleted": Effect.GONE}
_NAMES: Final = frozenset({*_EFFECTS, "bucket"})


def is_keys(value: Mapping[str, Any]) -> bool:
    """Return whether this is a list of keys, and nothing else."""
    return not _EFFECTS.keys().isdisjoint(value) and value.keys() <= _NAMES


def is_own(body: bytes) -> bool:
    """Return whether whoever wrote this body meant this form: an answer can show what is wrong with it."""
    try:
        value = load(body)
    except Unreadable:
        return False
    return isinstance(value, dict) and not _EFFECTS.keys().isdisjoint(value)


def read_keys(value: Mapping[str, Any], tally: Tally) -> None:
    """Read keys that changed, and keys that are gone."""
    bucket = text(value, "bucket") or tally.only_root
    for name, effect in _EFFECTS.items():
        if name in value:
            tally.each(value[name], partial(_add, bucket, effect), name, of=str)


def _add(bucket: str, effect: Effect, key: str, tally: Tally) -> None:
    plain = raw_key(key).removeprefix("/")
    if not plain:
        raise Unreadable("is an empty key")
    tally.add(effect, bucket, plain, None, event_time=None)
