"""The store in PostgreSQL: the extra ``fleet``. Nothing outside this package imports psycopg."""

from __future__ import annotations

from listener.errors import ConfigurationError

__all__ = ["require_driver"]


def require_driver() -> None:
    """Raise ConfigurationError where the extra is not installed."""
    try:
        import psycopg  # noqa: F401, PLC0415 - only where the store is in PostgreSQL
    except ImportError as error:  # of the package itself, or of libpq
        raise ConfigurationError(
            f"store.url: a PostgreSQL store needs the package psycopg ({error})",
            hint="pip install 'cdn-listener[fleet]'",
        ) from None
