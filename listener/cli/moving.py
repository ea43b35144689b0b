"""Which two stores ``store move`` copies between."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from listener.configuration import is_postgres, sqlite_path
from listener.errors import ConfigurationError
from listener.redaction import mask_url
from listener.store.moving import move
from listener.store.postgres import require_driver
from listener.store.sqlite import moving as sqlite

__all__ = ["moved"]


def moved(origin: str, destination: str) -> dict[str, int]:
    """
    Copy the store at one URL to the other; return how many rows each table has.

    Raises:
        ConfigurationError: a URL names no store, or holds a password, which every user of the machine sees.
        StoreError: see :func:`listener.store.moving.move`.
    """
    for url in (origin, destination):
        if is_postgres(url) and _has_password(url):
            raise ConfigurationError(
                f"{mask_url(url)}: a password is not accepted on the command line, where other users can read it",
                hint="remove it from the URL, and set PGPASSWORD or use a passfile",
            )
    return move(_end(origin, writes=False), _end(destination, writes=True))


def _has_password(url: str) -> bool:
    """Return whether more than a user's name is masked in the URL."""
    user = url.partition("://")[2].rpartition("@")[0]
    return ":" in user or mask_url(url.replace(f"{user}@", "", 1)) != url.replace(f"{user}@", "", 1)


def _end(url: str, *, writes: bool) -> AbstractContextManager[Any]:
    if is_postgres(url):
        require_driver()
        from listener.store.postgres import moving as postgres

        return postgres.writing(url) if writes else postgres.reading(url)
    path = sqlite_path(url)
    return sqlite.writing(path) if writes else sqlite.reading(path)
