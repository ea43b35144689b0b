"""
Lists of keys as people have them: from editors on Windows, from ``find``, from a log, from another tool.

==============================  =====================================================================================
a line                          is taken for
==============================  =====================================================================================
``shop/a.html``                 the key, as the storage has it
``shop/``                       everything below the folder
``./a.html``                    ``a.html``
``/a.html``                     of a file tree ``a.html``; of a bucket refused, since a key may begin so
``/srv/www/a.html``             of the tree at ``/srv/www``: ``a.html``
``https://www.example.com/a``   the key behind that URL of one of the source's sites
``# words``, an empty line      nothing
a directory of the tree         nothing, which is logged: its files are listed by themselves
what the source ignores         nothing, which is logged: ``find`` prints what is below ``.git`` as well
==============================  =====================================================================================

A byte order mark and CR LF are dropped. What cannot be meant as it stands is refused with the number of its line, and
then nothing of the list is used: another site's URL, a URL without its scheme, a name in quotes or with blanks at an
end, ``..``; of a tree, also what is no name there but has one among its fields (a table, an access log), or is in
another encoding. Entries that
are separated by NUL (``find -print0``, ``git diff -z``) are names in any case: no comments, quotes or blanks there.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote_to_bytes, urlsplit

import structlog

from listener.change import key_to_bytes, key_to_text
from listener.errors import ConfigurationError
from listener.router.routing import normal_or_refused, served_by
from listener.settings import Site, expanded
from listener.sources.filesystem.names import Ignore

__all__ = ["KeyLines", "Refused", "read_entries", "refuse_doubtful", "refuse_mistaken", "refuse_unlikely"]

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_INVISIBLE: Final = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
"""Not removed by ``str.strip()``, and never meant at an end of a name: byte order marks, joiners."""
_FIELDS: Final = re.compile(rb"[,;\t\"'<>?#]|  +")
"""What stands between the fields of a table, around a quoted name, and behind the path of a URL."""

CHUNK_BYTES: Final = 1 << 16
MAX_ENTRY_BYTES: Final = 1 << 16
"""Longer than any path or key: what has no separator for so long is no list."""
MAX_REASONS: Final = 5
"""So many refused lines are named; of the others their number."""
_SLASHES: Final = re.compile(rb"/(?:\.?/)+")
"""Slashes that mean one on disk, where nothing or ``.`` stands between them."""


class Refused(Exception):
    """A line cannot be meant as it stands; the text says why."""


def refuse_doubtful(line: bytes, hosts: Collection[str]) -> None:
    """Refuse a line that may be a name or something else; ``hosts`` are those of the sites, with their ports."""
    if _has_blank_end(line):
        raise Refused("has blanks or invisible characters at its beginning or end")
    if _CONTROL.search(line):
        raise Refused("has a control character; add -0 where NUL separates the entries")
    if line.startswith(b"#"):
        raise Refused("is a comment or a key; write '# ' before a comment, ./ before a key")
    if line[:1] == line[-1:] == b'"' and len(line) > 1:
        raise Refused("is quoted; write the bare name (git: -z, with -0 here)")
    scheme, mark, _ = line.partition(b"://")
    if mark and scheme.isalnum():
        raise Refused("is no URL that a CDN serves")
    host, slash, _ = line.lstrip(b"/").partition(b"/")
    if slash and host.decode(errors="replace").lower() in hosts:
        raise Refused("is a URL without its scheme; write the whole URL")


def refuse_mistaken(key: bytes, *, is_file: Callable[[bytes], bool], is_directory: Callable[[bytes], bool]) -> None:
    """Refuse what is not in a tree as it stands, but is when it is written otherwise; ``key`` is in no tree."""
    if b"%" in key and is_file(unquote_to_bytes(key)):
        raise Refused("is percent-encoded; write the name as it is on disk, or the whole URL")
    if b"\\" in key:
        raise Refused("has backslashes; write / between folders")
    if key.endswith(b":") and is_directory(key[:-1]):
        raise Refused("is a heading of `ls -R`; list the files with `find . -type f`")
    if key.endswith(b"/") and is_file(key.rstrip(b"/")):
        raise Refused("is a file; write it without the slash")


def refuse_unlikely(key: bytes, *, is_file: Callable[[bytes], bool]) -> None:
    """Refuse a line of text that is in no tree, and is in another encoding or has a name among other fields."""
    try:
        key.decode()
    except UnicodeDecodeError:
        raise Refused("is not UTF-8, and no file has that name; save the list as UTF-8") from None
    for part in _FIELDS.split(key):
        name = part.strip(b" /")
        if name and is_file(name):
            raise Refused(f"is no file, but {name.decode()!a} in it is; write one key a line, or add -0")


def _has_blank_end(line: bytes) -> bool:
    text = line.decode(errors="replace")
    return text.strip() != text or text.strip(_INVISIBLE) != text


log = structlog.get_logger()


def read_entries(path: Path, *, null: bool = False) -> Iterator[bytes]:
    """
    Yield the lines of a file (of stdin for ``-``) as they come, without their ends and a byte order mark.

    There may be more of them than memory. With ``null``, entries end with NUL. Raises
    :class:`~listener.errors.ConfigurationError` for a file that cannot be read or is no such text.
    """
    try:
        if str(path) == "-":
            yield from _entries(sys.stdin.buffer, "stdin", null=null)
            return
        with expanded(path).open("rb") as file:
            yield from _entries(file, str(path), null=null)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None


def _entries(file: BinaryIO, name: str, *, null: bool) -> Iterator[bytes]:
    separator, rest, first = (b"\0" if null else b"\n"), b"", True
    while chunk := file.read(CHUNK_BYTES):
        if first:
            chunk = _without_mark(chunk + (file.read(2) if len(chunk) < len(codecs.BOM_UTF8) else b""), name)
            first = False
        *whole, rest = (rest + chunk).split(separator)
        yield from whole if null else (one.removesuffix(b"\r") for one in whole)
        if len(rest) > MAX_ENTRY_BYTES:
            words = "NUL" if null else "line feed"
            raise ConfigurationError(
                f"{name}: {len(rest)} bytes without a {words}: this is no list of keys",
                hint="leave -0 out where the keys stand one a line" if null else "add -0 where NUL separates them",
            )
    if null and b"\n" in rest and rest.strip():
        raise ConfigurationError(
            f"{name}: its last entry has line feeds and no NUL at its end",
            hint="leave -0 out where the keys stand one a line",
        )
    if rest.strip(b"\r\n"):
        yield rest if null else rest.removesuffix(b"\r")


def _without_mark(chunk: bytes, name: str) -> bytes:
    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigurationError(f"{name}: the file is UTF-16", hint="save it as UTF-8; in PowerShell: -Encoding utf8")
    return chunk.removeprefix(codecs.BOM_UTF8)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLines:
    """How the lines of one list are read."""

    name: str
    """What the list is called in messages: the option and the file."""
    sites: Sequence[Site] = ()
    """All sites; only URLs of those with this source may stand in it."""
    source: str | None = None
    """The source whose keys are listed; None: any."""
    tree: Path | None = None
    """The root, where the keys are files of a tree on this machine."""
    ignore: Ignore | None = None
    """What the tree's source takes for no content."""
    null: bool = False
    """Whether entries were separated by NUL, so that each is a name whatever it looks like."""

    def keys(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield the key of each line that has one; a folder ends with ``/``.

        Raises :class:`~listener.errors.ConfigurationError` after the last line where any cannot be meant: the caller
        reads all of it before it uses any.
        """
        reasons: list[str] = []
        refused = directories = ignored = first_line = 0
        for number, line in enumerate(lines, start=1):
            try:
                key = self._key(line.rstrip(b"\r\n") if not self.null else line)
            except Refused as error:
                refused += 1
                if refused <= MAX_REASONS:
                    reasons.append(f"line {number}: {key_to_text(line[:200])!r} {error}")
                continue
            if key is None:
                continue
            if not key or self._is_directory(key):
                directories += 1
            elif self._is_ignored(key):
                ignored += 1
            else:
                yield key
                continue
            first_line = first_line or number
        if refused:
            more = f"; {refused - MAX_REASONS} further lines" if refused > MAX_REASONS else ""
            hint = "correct the list; nothing of it was used"
            raise ConfigurationError(f"{self.name}: {'; '.join(reasons)}{more}", hint=hint)
        if first_line:
            log.warning(
                "list.left_out", list=self.name, directories=directories, ignored=ignored, first_line=first_line
            )

    def argument(self, entry: bytes) -> bytes:
        """
        Return the key that one argument means: a key, a path of the tree, or a URL of one of the source's sites.

        Raises :class:`~listener.errors.ConfigurationError` for one that can be none of these.
        """
        try:
            if entry.startswith((b"http://", b"https://")):
                return self._key_of_url(entry)
            return entry if self.tree is None else self._relative(entry) or entry
        except Refused as error:
            message = f"{self.name}: {key_to_text(entry[:200])!r} {error}"
            raise ConfigurationError(message, hint="name a key, or a URL of one of the sites") from None

    def _key(self, line: bytes) -> bytes | None:
        while not self.null and line.startswith(codecs.BOM_UTF8) and not self._exists(line):
            line = line.removeprefix(codecs.BOM_UTF8)
        if not self.null and (not line.strip() or line == b"#" or line.startswith((b"# ", b"#\t"))):
            return None
        if not line:
            return None
        if line.startswith((b"http://", b"https://")):
            return self._key_of_url(line)
        if not self.null and not self._exists(line):
            refuse_doubtful(line, self._hosts())
        key = self._relative(line)
        if b".." in key and b".." in key.split(b"/"):
            raise Refused("leads out of its folder")
        if self.tree is not None and not self._exists(key):
            refuse_mistaken(key, is_file=self._exists, is_directory=self._is_directory)
            if not self.null:
                refuse_unlikely(key, is_file=self._is_file)
        return key

    def _hosts(self) -> set[str]:
        return {urlsplit(url).netloc for site in self.sites for url in site.base_urls}

    def _relative(self, line: bytes) -> bytes:
        """Return the key that a path means; empty for the root itself."""
        if line == b"./" or (line == b"." and self.tree is None):
            raise Refused("is the whole storage; leave --from out")
        key = line
        while key.startswith(b"./"):
            key = key[2:]
        if self.tree is None:
            if key.startswith(b"/"):
                raise Refused("starts with a slash; write the key as the storage lists it")
            return key
        roots = (os.fsencode(root).rstrip(b"/") + b"/" for root in (self.tree.absolute(), os.path.realpath(self.tree)))
        root = next((one for one in roots if key.startswith(one)), b"")
        outside = key.startswith(b"/") and not root and os.path.lexists(key)
        key = _SLASHES.sub(b"/", key.removeprefix(root)).lstrip(b"/")
        if outside and not self._exists(key):
            raise Refused(f"is a file outside of {self.tree}")
        return b"" if key == b"." else key

    def _key_of_url(self, line: bytes) -> bytes:
        try:
            url = normal_or_refused(line.decode())
            served = served_by(self.sites, url)
        except UnicodeDecodeError:
            raise Refused("is no URL: it has bytes that are no UTF-8") from None
        except ConfigurationError as error:
            raise Refused(f"{str(error).partition(': ')[2]} ({error.hint})") from None
        if self.source not in (None, served.site.source):
            raise Refused(f"is served from source {served.site.source}, not from {self.source}")
        keys = [key_to_bytes(key) for key in served.keys]
        if not keys and "?" in url:
            raise Refused("has a query that is none of the site's query_variants; use `cdn-listener refresh`")
        if not keys:
            raise Refused("is a folder, and the site has no index_documents; write the key")
        return next((key for key in keys if self._exists(key) and not self._is_directory(key)), keys[0])

    def _path(self, key: bytes) -> bytes:
        assert self.tree is not None
        return os.fsencode(self.tree).rstrip(b"/") + b"/" + key

    def _exists(self, key: bytes) -> bool:
        return self.tree is not None and b"\0" not in key and os.path.lexists(self._path(key))

    def _is_file(self, key: bytes) -> bool:
        return self._exists(key) and not self._is_directory(key)

    def _is_directory(self, key: bytes) -> bool:
        """Return whether a key without a slash at its end names a directory of the tree."""
        if self.tree is None or key.endswith(b"/") or b"\0" in key:
            return False
        return os.path.isdir(self._path(key))  # noqa: PTH112 - the name is bytes

    def _is_ignored(self, key: bytes) -> bool:
        """Return whether the source takes a key, or a folder above it, for no content."""
        if self.ignore is None:
            return False
        *folders, name = key_to_text(key).split("/")
        above = ""
        for folder in folders:
            if self.ignore.directory(above, folder):
                return True
            above += folder + "/"
        return bool(name) and self.ignore.file(above, name)
