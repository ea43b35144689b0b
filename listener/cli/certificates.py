"""Loads the system's certificates at the first connection with TLS, and not when aiohttp is imported."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["certificates_at_first_use"]


class _Unloaded(ssl.SSLContext):
    """A context that loads the system's certificates before it is used, and is an ordinary one from then on."""

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """See :meth:`ssl.SSLContext.wrap_bio`, which asyncio calls."""
        return self._loaded().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """See :meth:`ssl.SSLContext.wrap_socket`."""
        return self._loaded().wrap_socket(*arguments, **options)

    def _loaded(self) -> ssl.SSLContext:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]
        self.load_default_certs()
        return self


@contextmanager
def certificates_at_first_use() -> Iterator[None]:
    """
    Have contexts that are made meanwhile load the system's certificates at their first connection.

    aiohttp makes its default context when it is imported: 0.02 s and 1 MiB for certificates, which an instance without
    a connection never needs, and any other not before it is ready.
    """
    load = ssl.SSLContext.load_default_certs

    def later(context: ssl.SSLContext, _purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        context.__class__ = _Unloaded

    ssl.SSLContext.load_default_certs = later  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign]
