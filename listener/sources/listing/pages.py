"""
ListObjectsV2: what a page says, and one bucket read by many listers at once in one order.

**Pages** are read without building a tree: bytes in, rows out. Keys are requested percent-encoded
(``encoding-type=url``), because XML 1.0 cannot carry every key; a store that ignores it is recognized by its response,
which is read as XML text.

**Listers.** Parts of the key range are read at once and given out in order.

::

    after ────────────────────────────────────────────────────────────────▶ end
    [ read, being given out ][ 8 pages ahead ][ 8 pages ahead ][ ...          ]
      lister 1                 lister 2         lister 3         lister 4

A lister that has nothing to do takes the later half of the part that is wanted next: from a folder that is known,
or else from a key half-way between the bytes of its ends. Parts are half-open ranges of keys: whatever is guessed,
nothing is left out and nothing comes twice. Memory holds some pages a lister, however large the bucket is.

Each seam is checked: a lister that comes to the end of its part has seen the key behind it, and that must be the
first one of the next part. Some stores leave out a whole folder when they list from a key that does not exist
(SeaweedFS 4.48: from ``folder`` or ``folder!``). Then the next part is thrown away, and nothing is split any more.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import unescape
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.errors import ListenerError, SourceUnavailable
from listener.formats.reading import Unreadable, load_xml, tag_name
from listener.text import whole_number

__all__ = ["Entry", "Fetch", "Page", "entries_in_order", "etag_of", "half_way", "read_page", "time_ns"]

_FOLDER: Final = re.compile(rb"<CommonPrefixes>\s*<Prefix>([^<]*)</Prefix>")
_TOKEN: Final = re.compile(rb"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_TRUNCATED: Final = re.compile(rb"<IsTruncated>\s*(?:true|True)\s*</IsTruncated>")
_ENCODED: Final = re.compile(rb"<EncodingType>\s*url\s*</EncodingType>")
_MOST_TAGS: Final = 100_000
"""A thousand objects with all their fields have some 20,000."""
PAGES_AHEAD: Final = 8
SPLIT_TRIES: Final = 6
_WIDTH: Final = 12
_PLAIN: Final = (0x21, 0x7E)


class Entry(NamedTuple):
    """One object, as a listing has it."""

    key: str
    fingerprint: Fingerprint


class Page(NamedTuple):
    """One answer: up to a thousand objects or folders, in the order of their keys' bytes."""

    entries: list[Entry]
    folders: list[str]
    more: bool
    """Whether there is another page behind this one."""
    token: str | None
    """The request."""


_FIELDS: Final = tuple(
    re.compile(rb"<%b>([^<]*)</%b>" % (name, name)) for name in (b"Key", b"LastModified", b"ETag", b"Size")
)


def read_page(body: bytes) -> Page:
    """
    Return what the answer lists.

    Raises :class:`~listener.errors.SourceUnavailable` for what is no answer to a listing: half of one, above all.
    """
    if b"</ListBucketResult>" not in body[-64:] and not body.rstrip().endswith(b"</ListBucketResult>"):
        raise SourceUnavailable("the store's answer is no whole listing", hint="look at what stands between")
    encoded = bool(_ENCODED.search(body))
    count = body.count(b"<Contents>")
    columns: list[list[bytes]] = [field.findall(body) for field in _FIELDS]
    if any(len(one) != count for one in columns):
        # A field that is missing somewhere would shift all that follow.
        columns = [list(one) for one in zip(*_slow_rows(body), strict=True)]
    key = _plus_key if encoded else _xml_key
    token = _TOKEN.search(body)
    return Page(
        _entries(columns, key) if count else [],
        [key(raw) for raw in _FOLDER.findall(body)],
        bool(_TRUNCATED.search(body)),
        unescape(token[1].decode("utf-8", "surrogateescape")) if token else None,
    )


def _entries(columns: list[list[bytes]], key: Callable[[bytes], str]) -> list[Entry]:
    """Return the objects of columns; whole columns at once, since a listing is a million times this."""
    keys, times, tags, sizes = columns
    known = {raw: time_ns(raw.decode("ascii", "replace")) for raw in set(times)}
    joined = b"\n".join(tags)
    if joined.count(b"\n") != len(tags) - 1:
        raise SourceUnavailable("the store's answer lists an object whose ETag has several lines")
    cleaned = etag_of(joined.decode("utf-8", "replace"), within=True) or ""
    return [
        Entry(key(raw), Fingerprint(_size(size), known[at], None, None, tag or None))
        for raw, at, tag, size in zip(keys, times, cleaned.split("\n"), sizes, strict=True)
    ]


def _size(raw: bytes) -> int:
    size = whole_number(raw.decode("ascii", "replace"))
    if size is None:
        raise SourceUnavailable("the store's answer lists an object without a size")
    return size


def etag_of(text: str, *, within: bool = False) -> str | None:
    """Return an entity tag (``within`` a longer text: each) without quotes, in lower case; None where there is none."""
    plain = text.replace("&quot;", "").replace("&#34;", "").lower()
    return (plain.replace('"', "") if within else plain.strip('"')) or None


def time_ns(text: str) -> int | None:
    """Return an ISO 8601 time in nanoseconds since the epoch, None for anything else; UTC where no zone is named."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000) * 1_000


def _plus_key(raw: bytes) -> str:
    if b"%" in raw or b"+" in raw:
        return key_to_text(unquote_to_bytes(raw.replace(b"+", b" ")))
    return key_to_text(raw)


def _xml_key(raw: bytes) -> str:
    text = key_to_text(raw)
    return unescape(text) if "&" in text else text


def _slow_rows(body: bytes) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Read an answer where some object lacks a field."""
    try:
        root = load_xml(body, most_tags=_MOST_TAGS)
    except Unreadable as error:
        raise SourceUnavailable(f"the store's answer cannot be read: {error}") from None
    for item in root.iter():
        if tag_name(item) == "Contents":
            found = {tag_name(child): child.text or "" for child in item}
            if "Key" not in found or whole_number(found.get("Size", "")) is None:
                raise SourceUnavailable("the store's answer lists an object without a key or a size")
            # As it stood in the answer: the caller undoes what the encoding did.
            yield (
                found["Key"].replace("&", "&amp;").encode("utf-8", "surrogateescape"),
                found.get("LastModified", "").encode(),
                found.get("ETag", "").encode(),
                found["Size"].encode(),
            )


class Fetch(Protocol):
    """Requests one page."""

    def __call__(self, prefix: str, after: str, *, folders: bool = False) -> Page:
        """Return the page of keys that start so and come after that one; with ``folders``, cut at the next ``/``."""
        ...


@dataclass(slots=True, eq=False)
class _Part:
    """The keys above ``reached`` up to ``until``, which belongs to it; without one, up to the end."""

    reached: bytes
    until: bytes | None
    first: bytes | None = None
    """The first key that was found in it, where it was split off."""
    pages: deque[list[Entry]] = field(default_factory=deque)
    started: bool = False
    finished: bool = False
    error: ListenerError | None = None


class _Listers:
    """The parts in order, and the threads that read them."""

    def __init__(self, fetch: Fetch, prefix: str, after: str, *, count: int) -> None:
        self._fetch = fetch
        self._prefix = prefix
        self._parts = [_Part(key_to_bytes(after), None)]
        self._folders: list[bytes] = []
        self._splits = True
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, name=f"list {number}", daemon=True) for number in range(count)
        ]

    def pages(self) -> Iterator[list[Entry]]:
        """Yield the pages of all parts, in order; raise what went wrong where it went wrong."""
        if len(self._threads) > 1:
            self._folders = self._find_folders()
        for thread in self._threads:
            thread.start()
        try:
            while (page := self._next()) is not None:
                yield page
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _find_folders(self) -> list[bytes]:
        found = self._fetch(self._prefix, "", folders=True).folders
        return sorted(key_to_bytes(folder) for folder in found)

    def _next(self) -> list[Entry] | None:
        with self._changed:
            while True:
                part = self._parts[0]
                if part.pages:
                    self._changed.notify_all()
                    return part.pages.popleft()
                if part.error is not None:
                    raise part.error
                if not part.finished:
                    self._changed.wait()
                elif len(self._parts) == 1:
                    return None
                else:
                    del self._parts[0]
                    self._changed.notify_all()

    # -- a lister's thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        while (part := self._claim()) is not None:
            try:
                while self._read_on(part):
                    pass
            except ListenerError as error:
                self._finish(part, error)
            except Exception as error:  # noqa: BLE001 - a thread's end would be waited for in vain
                self._finish(part, SourceUnavailable(f"listing failed: {type(error).__name__}: {error}"))

    def _claim(self) -> _Part | None:
        """Return a part to read: the first that nobody reads, or a new one taken from another lister's."""
        while True:
            with self._changed:
                if self._ended or all(part.finished for part in self._parts):
                    return None
                for part in self._parts:
                    if not part.started:
                        part.started = True
                        return part
                wide = next((part for part in self._parts if part.pages and not part.finished), None)
            if wide is not None and (new := self._split(wide)) is not None:
                return new
            with self._changed:
                if not self._ended:
                    self._changed.wait(0.2 if wide is None else 1.0)

    def _read_on(self, part: _Part) -> bool:
        """Read one page of a part; return whether there is more of it to read."""
        with self._changed:
            while len(part.pages) >= PAGES_AHEAD and not self._ended and part in self._parts:
                self._changed.wait()
            if self._ended or part.finished or part not in self._parts:
                return False
            reached = part.reached
        page = self._fetch(self._prefix, reached.decode("utf-8", "surrogateescape"))
        return self._take(part, page, reached)

    def _take(self, part: _Part, page: Page, after: bytes) -> bool:
        keys = _in_order(page, after)
        if page.more and not keys:
            raise SourceUnavailable("the store says that there is more, and lists nothing")
        with self._changed:
            if part not in self._parts:
                return False  # thrown away meanwhile
            end = self._end(part, keys, more=page.more)
            if end:
                part.pages.append(page.entries[:end])
                part.reached = keys[end - 1]
            part.finished = end < len(keys) or not page.more
            self._changed.notify_all()
            return not part.finished

    def _end(self, part: _Part, keys: list[bytes], *, more: bool) -> int:
        """Return how many of the keys belong to the part; where the next one does not fit on, throw that away."""
        while True:
            end = len(keys) if part.until is None else bisect_right(keys, part.until)
            if end == len(keys) and more:
                return end  # the seam is not in sight yet
            behind = keys[end] if end < len(keys) else None
            at = self._parts.index(part) + 1
            following = self._parts[at] if at < len(self._parts) else None
            if behind == (following.first if following else None):
                return end
            self._splits = False
            part.until = following.until if following else None
            del self._parts[at : at + 1]

    def _finish(self, part: _Part, error: ListenerError) -> None:
        with self._changed:
            part.error, part.finished = error, True
            self._changed.notify_all()

    def _split(self, part: _Part) -> _Part | None:
        """Take the later half of a part, where there is one; what is found empty meanwhile is cut off it."""
        for _ in range(SPLIT_TRIES):
            with self._changed:
                cut = self._cut(part) if self._splits and not (part.finished or self._ended) else None
                until = part.until
            if cut is None:
                return None
            try:
                page = self._fetch(self._prefix, cut.decode("utf-8", "surrogateescape"))
                keys = _in_order(page, cut)
            except ListenerError:
                return None  # the lister that reads up to there will say so
            with self._changed:
                if part.finished or part.reached >= cut or part.until != until or part not in self._parts:
                    return None
                if keys and (until is None or keys[0] <= until):
                    new = _Part(cut, until, keys[0], started=True)
                    part.until = cut
                    self._parts.insert(self._parts.index(part) + 1, new)
                    break
                part.until = cut
        else:
            return None
        self._take(new, page, cut)
        return new

    def _cut(self, part: _Part) -> bytes | None:
        first = bisect_right(self._folders, part.reached)
        last = len(self._folders) if part.until is None else bisect_left(self._folders, part.until)
        if last - first > 1:
            return self._folders[(first + last) // 2]
        return half_way(part.reached, part.until, key_to_bytes(self._prefix))


def _in_order(page: Page, after: bytes) -> list[bytes]:
    """Return the keys' bytes. Raise SourceUnavailable where they do not rise: no part could be trusted then."""
    keys = [key_to_bytes(entry.key) for entry in page.entries]
    if keys and (keys[0] <= after or any(map(bytes.__ge__, keys, keys[1:]))):
        raise SourceUnavailable(
            "the store does not list in the order of keys, or not from the key that it was asked for",
            hint="directory buckets and some gateways do not; list an inventory instead: --from MANIFEST",
        )
    return keys


def half_way(low: bytes, high: bytes | None, prefix: bytes) -> bytes | None:
    """Return a key of plain characters about half-way between two keys, above the first; None where there is none."""
    top = prefix + b"\x7f" if high is None else high
    same = next((at for at, (a, b) in enumerate(zip(low, top, strict=False)) if a != b), min(len(low), len(top)))
    middle = _number(low[same:]) + (_number(top[same:]) - _number(low[same:])) // 2
    tail = bytes(min(max(byte, _PLAIN[0]), _PLAIN[1]) for byte in middle.to_bytes(_WIDTH, "big"))
    found = low[:same] + tail[:4]
    try:
        found.decode()
    except UnicodeDecodeError:
        return None
    return found if low < found < top else None


def _number(text: bytes) -> int:
    return int.from_bytes(text[:_WIDTH].ljust(_WIDTH, b"\0"), "big")


def entries_in_order(fetch: Fetch, *, prefix: str, after: str, concurrency: int) -> Iterator[list[Entry]]:
    """
    Yield every object whose key starts with ``prefix`` and comes after ``after``, in pages, in byte order.

    Raises the :class:`~listener.errors.ListenerError` of ``fetch`` once everything before it was yielded, and
    :class:`~listener.errors.SourceUnavailable` for a store that does not list in order.
    """
    yield from _Listers(fetch, prefix, after, count=concurrency).pages()
