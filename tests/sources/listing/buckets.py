"""A bucket behind real HTTP whose faults can be ordered, and listings of made-up keys."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote_from_bytes, urlsplit

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes, key_to_text
from listener.sources.listing import ListingSettings
from listener.sources.listing.pages import Entry, Page

GOLDEN = [
    "a.html", "50%.txt", "50%25.txt", "a b+c.txt", "a+b", "a&b<c>'\"", "é/ü.jpg", "日本/語.jpg", "q?x=1#f",
    "~tilde", "tab\tx", "new\nline", "back\\slash", "trail ", " lead", "double//slash", "/lead", "x%2Fy", "😀.png",
    "dot/./x", "a\u0301", "c\x01ontrol",
]  # fmt: skip
"""Keys that have been read wrong somewhere."""


def page_of(keys: list[str], prefix: str, after: str, *, folders: bool = False, size: int = 1000) -> Page:
    """Return what a store that holds these (sorted) keys answers."""
    raw = [key_to_bytes(key) for key in keys]
    rest = [key for key in keys[bisect_right(raw, key_to_bytes(after)) :] if key.startswith(prefix)]
    if folders:
        cut = {key[: key.index("/", len(prefix)) + 1] for key in rest if "/" in key[len(prefix) :]}
        return Page([], sorted(cut, key=key_to_bytes), False, None)
    entries = [Entry(key, Fingerprint(len(key), 1_700_000_000_000_000_000, etag="e")) for key in rest[:size]]
    return Page(entries, [], len(rest) > size, None)


def in_order(keys: Any) -> list[str]:
    """Return the keys as a store lists them, each once."""
    return sorted(set(keys), key=key_to_bytes)


class MadeUp:
    """A listing of objects that a test names, as :class:`listener.sources.listing.Listing`."""

    complete = True

    def __init__(self, objects: dict[str, Fingerprint], *, root: str = "www", fails_after: int | None = None) -> None:
        self.root, self.prefix, self.what = root, "", "made up"
        self.objects = objects
        self.fails_after = fails_after
        self.error: Callable[[], Exception] = lambda: OSError("half-way")

    def digest(self) -> str:
        return "made-up"

    def changes(self, after: str = "") -> Iterator[Change]:
        for number, key in enumerate(in_order(self.objects)):
            if number == self.fails_after:
                raise self.error()
            if key_to_bytes(key) > key_to_bytes(after):
                yield Change(self.root, key, ChangeKind.CONTENT, self.objects[key])


@dataclass
class FakeBucket:
    """What the server holds, and what goes wrong."""

    objects: dict[str, bytes] = field(default_factory=dict)
    port: int = 0
    page: int = 1000
    encodes: bool = True
    fault: Callable[[str, str], tuple[int, bytes] | None] = lambda _prefix, _after: None
    """Given prefix and start: the status and body to answer with instead, or None."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    order: Callable[[list[str]], list[str]] = in_order

    def settings(self, **more: Any) -> ListingSettings:
        given = {"url": "s3://site", "endpoint_url": f"http://127.0.0.1:{self.port}", "region": "us-east-1"}
        return ListingSettings.model_validate(given | more)

    def answer(self, query: dict[str, list[str]]) -> tuple[int, bytes]:
        prefix, after = (key_to_text(query.get(name, [""])[0].encode()) for name in ("prefix", "start-after"))
        self.asked.append((prefix, after))
        if (wrong := self.fault(prefix, after)) is not None:
            return wrong
        keys = self.order(list(self.objects))
        found = page_of(keys, prefix, after, folders="delimiter" in query, size=self.page)
        rows = b"".join(self._row(entry.key) for entry in found.entries)
        folders = b"".join(
            b"<CommonPrefixes><Prefix>%b</Prefix></CommonPrefixes>" % self._text(one) for one in found.folders
        )
        kind = b"<EncodingType>url</EncodingType>" if self.encodes else b""
        more = b"true" if found.more else b"false"
        return 200, (
            b'<?xml version="1.0"?><ListBucketResult><IsTruncated>%b</IsTruncated>%b%b%b</ListBucketResult>'
            % (more, rows, folders, kind)
        )

    def _row(self, key: str) -> bytes:
        return (
            b"<Contents><Key>%b</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            b"<ETag>&quot;ABC&quot;</ETag><Size>%d</Size></Contents>" % (self._text(key), len(self.objects[key]))
        )

    def _text(self, key: str) -> bytes:
        if self.encodes:
            return quote_from_bytes(key_to_bytes(key), safe="/~").replace("%20", "+").encode()
        return key.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").encode()


def denied(code: str = "AccessDenied") -> tuple[int, bytes]:
    """Return what a store answers that does not let us."""
    return 403, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


@contextmanager
def a_bucket(*keys: str) -> Iterator[FakeBucket]:
    """Serve a bucket that holds these keys."""
    bucket = FakeBucket(dict.fromkeys(keys, b"x"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name = url.path.removeprefix("/site").lstrip("/")
            if name:
                status, body = (200, bucket.objects[name]) if name in bucket.objects else (404, b"")
            else:
                status, body = bucket.answer(parse_qs(url.query, keep_blank_values=True))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bucket.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
