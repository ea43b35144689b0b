"""
Where the edge fetches content: a directory on disk, or a web server.

A directory is served as nginx does: ``Last-Modified`` in whole seconds, and an ``ETag`` of second and size. A file that
is rewritten within a second with the same number of bytes keeps both, so a revalidation keeps the old copy: the case
that makes a forced refresh necessary.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import aiohttp
import yarl

from listener.errors import ConfigurationError
from listener.settings import expanded

__all__ = ["DirectoryOrigin", "Fetched", "Origin", "OriginFailure", "UrlOrigin", "origin_of"]

MAX_OBJECT_BYTES: Final = 256 * 1024 * 1024
"""Bodies are held in memory; a larger one is refused."""
FETCH_TIMEOUT_SECONDS: Final = 30.0
KEPT_HEADERS: Final = (
    "cache-control",
    "cache-tag",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "location",
)
"""What an edge passes on of a web server's response; the rest belongs to one connection or one visitor."""
PLAIN: Final = (("content-type", "text/plain; charset=utf-8"),)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An origin's answer; ``status`` 304 says that the cached copy is still valid."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


TOO_LARGE: Final = Fetched(507, PLAIN, b"The object is larger than the emulator holds.\n")


class OriginFailure(Exception):
    """The origin gave no answer; the message is one of the descriptions that a failed task may carry."""


class DirectoryOrigin:
    """A directory; a path names exactly the file whose bytes it decodes to, and never one outside."""

    def __init__(self, root: Path, *, index_documents: tuple[str, ...] = ("index.html",)) -> None:
        """Serve what is below ``root``, which may be a symbolic link that is switched meanwhile."""
        self._root = os.fsencode(root)
        self._index_documents = tuple(os.fsencode(name) for name in index_documents)

    async def fetch(self, target: str, validators: Mapping[str, str]) -> Fetched:
        """Read the file off the event loop; the query does not matter."""
        return await asyncio.to_thread(self.read, target, validators)

    async def close(self) -> None:
        """Release nothing."""

    def read(self, target: str, validators: Mapping[str, str]) -> Fetched:
        """Return the file, a 304 when the validators hold, or a 404."""
        for path in self._candidates(target.partition("?")[0]):
            with suppress(OSError, ValueError), _open(path) as file:
                return _answer(file, os.fsdecode(path), validators)
        return Fetched(404, PLAIN, b"There is no such object.\n")

    def _candidates(self, path: str) -> list[bytes]:
        segments = [unquote_to_bytes(segment) for segment in path.removeprefix("/").split("/")]
        *directories, name = segments
        if any(segment in (b"", b".", b"..") for segment in directories) or name in (b".", b".."):
            return []
        if any(b"/" in segment or b"\0" in segment for segment in segments):
            return []
        names = [name] if name else self._index_documents
        return [found for last in names if (found := self._inside(b"/".join([*directories, last])))]

    def _inside(self, relative: bytes) -> bytes | None:
        root = os.path.realpath(self._root)
        found = os.path.realpath(os.path.join(root, relative))  # noqa: PTH118 - the name is bytes
        return found if found.startswith(root.rstrip(b"/") + b"/") else None


def _open(path: bytes) -> BinaryIO:
    # Without O_NONBLOCK a named pipe in the tree would hold the thread for ever.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _answer(file: BinaryIO, name: str, validators: Mapping[str, str]) -> Fetched:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > MAX_OBJECT_BYTES:
        return TOO_LARGE
    modified_seconds = int(status.st_mtime)
    etag, modified = f'"{modified_seconds:x}-{status.st_size:x}"', formatdate(modified_seconds, usegmt=True)
    headers = (("content-type", _content_type(name)), ("etag", etag), ("last-modified", modified))
    if _holds(etag, modified, validators):
        return Fetched(304, headers, b"")
    return Fetched(200, headers, file.read())


def _holds(etag: str, modified: str, validators: Mapping[str, str]) -> bool:
    if "if-none-match" in validators:
        return validators["if-none-match"] == etag
    return validators.get("if-modified-since") == modified


def _content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


class UrlOrigin:
    """A web server; the path of its URL is put before every path."""

    def __init__(self, base_url: str) -> None:
        """Fetch below this URL."""
        self._base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, target: str, validators: Mapping[str, str]) -> Fetched:
        """Request the path's exact bytes; redirects are passed on, not followed."""
        url = yarl.URL(self._base_url + target, encoded=True)
        headers = {**validators, "accept-encoding": "identity"}
        try:
            async with self._client().get(url, headers=headers, allow_redirects=False) as response:
                body = await _body(response)
                kept = tuple((name.lower(), value) for name, value in response.headers.items())
        except TimeoutError as error:
            raise OriginFailure("Origin Timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise OriginFailure("Internal Error") from error
        if body is None:
            return TOO_LARGE
        return Fetched(response.status, tuple(pair for pair in kept if pair[0] in KEPT_HEADERS), body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes | None:
    chunks, size_bytes = [], 0
    async for chunk in response.content.iter_any():
        size_bytes += len(chunk)
        if size_bytes > MAX_OBJECT_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


Origin: TypeAlias = DirectoryOrigin | UrlOrigin
"""
Where objects come from.

``fetch`` takes a path and query, written as in a request line, and validators, which may be ``if-none-match`` and
``if-modified-since``; it raises :class:`OriginFailure`. ``close`` is safe to call twice.
"""


def origin_of(text: str, *, index_documents: tuple[str, ...]) -> Origin:
    """Return the origin that ``--origin DIR|URL`` names. Raise :class:`ConfigurationError` for a missing directory."""
    if text.startswith(("http://", "https://")):
        return UrlOrigin(text)
    root = expanded(Path(text))
    if not root.is_dir():
        raise ConfigurationError(
            f"The origin {text!r} is not a directory.", hint="Give --origin a directory that exists, or an http(s) URL."
        )
    return DirectoryOrigin(root, index_documents=index_documents)
