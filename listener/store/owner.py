"""Whether there is a store, and who sends from it, by its URL: the driver is imported only for a store of its kind."""

from __future__ import annotations

from typing import NamedTuple

from listener.configuration import sqlite_path
from listener.errors import StoreError

__all__ = ["Owner", "exists", "owner_of"]


class Owner(NamedTuple):
    """What is known of the process that sends from a store."""

    is_running: bool | None
    """None: it cannot be known."""
    pid: int | None = None
    reason: str = ""
    """Why it cannot be known."""


def owner_of(url: str) -> Owner:
    """Return whether a process sends from this store, and which. Raises ConfigurationError for no URL of a store."""
    from listener.store.sqlite import ownership  # noqa: PLC0415

    return ownership.owner_of(sqlite_path(url))


def exists(url: str) -> bool:
    """
    Return whether there is something at this URL, without making anything.

    Raises:
        ConfigurationError: it is no URL of a store.
        StoreError: it cannot be known.
    """
    path = sqlite_path(url)
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot read the state file {path}: {error.strerror}", hint="check the permissions of its directory"
        ) from None
