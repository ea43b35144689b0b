"""Whether there is a store, and who sends from it, by its URL: the driver is imported only for a store of its kind."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, cast

from listener.configuration import is_postgres, sqlite_path
from listener.errors import StoreError

__all__ = ["Owner", "absent", "described", "exists", "owner_of"]


class Owner(NamedTuple):
    """What is known of the process that sends from a store."""

    is_running: bool | None
    """None: it cannot be known."""
    pid: int | None = None
    reason: str = ""
    """Why it cannot be known."""


def owner_of(url: str) -> Owner:
    """
    Return whether a process sends from this store, and which.

    Raises:
        ConfigurationError: it is no URL of a store.
        StoreError: the server was not reached.
    """
    if is_postgres(url):
        return cast("Owner", _postgres().owner_of(url))
    from listener.store.sqlite import ownership  # noqa: PLC0415

    return ownership.owner_of(sqlite_path(url))


def exists(url: str) -> bool:
    """
    Return whether there is something at this URL, without making anything.

    Raises:
        ConfigurationError: it is no URL of a store.
        StoreError: it cannot be known.
    """
    if is_postgres(url):
        return bool(_postgres().exists(url))
    path = sqlite_path(url)
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot read the state file {path}: {error.strerror}",
            hint="run the command as root, or as a member of the group of the admin socket: see docs/start/daemon.md",
        ) from None


def absent(url: str) -> StoreError:
    """Return the error for a URL at which there is no store yet."""
    if is_postgres(url):
        return cast("StoreError", _postgres().absent(url))
    return StoreError(
        f"there is no state file yet: {sqlite_path(url)}", hint="start the daemon first: cdn-listener run"
    )


def described(url: str) -> str:
    """Return what is at the URL of a PostgreSQL store, in a line for people; raise as :func:`exists` does."""
    return str(_postgres().described(url))


def _postgres() -> ModuleType:
    from listener.store.postgres import require_driver  # noqa: PLC0415

    require_driver()
    from listener.store.postgres import presence  # noqa: PLC0415

    return presence
