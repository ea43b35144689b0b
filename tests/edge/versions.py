"""An origin whose objects have versions, with validators of several kinds, as caches keep them for an hour."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import time
from contextlib import closing
from dataclasses import dataclass
from email.utils import formatdate

from listener.change import Fingerprint
from listener.edge.verdict import Expected
from tests.targets.http_purge.caches import ThreadedOrigin

__all__ = ["KINDS", "Versions", "versions"]

KINDS = ("tag", "weak", "time", "both", "packed", "bare", "deleted", "late")
"""The first folder of a path: which validators the object has; deleted by its change, or there only since."""
LONG_AGO = 1_700_000_000
ABSENT = b"1 absent"
OLD_SECONDS = 600
"""How old copies from before the change are, by the ``Age`` that the origin sends with them."""


@dataclass
class Object:
    """One object at one time."""

    version: int
    changed_at: float

    @property
    def modified_at(self) -> int:
        return LONG_AGO + 100 * self.version

    def body(self, path: str) -> bytes:
        return f"{self.version:04} {path} ".encode() * 40

    def tag(self, path: str) -> str:
        return hashlib.md5(self.body(path), usedforsecurity=False).hexdigest()


class Versions(ThreadedOrigin):
    """Answers any path; what was changed has the next version."""

    def __init__(self) -> None:
        self.changed: dict[str, Object] = {}
        self.first = Object(1, time.time() - 10 * OLD_SECONDS)
        super().__init__()

    def change(self, *paths: str) -> None:
        """Give these paths their next version."""
        for path in paths:
            self.changed[path] = Object(2, time.time())

    def expected(self, path: str) -> Expected:
        """Return what a storage would say of a path."""
        kind, last = path.split("/")[1], self.changed.get(path, self.first)
        is_absent = (kind == "deleted") is (path in self.changed) and kind in ("deleted", "late")
        if is_absent:
            return Expected(is_deleted=True, changed_at=last.changed_at)
        tag = last.tag(path) if kind in ("tag", "weak", "both", "packed", "late") else None
        held = Fingerprint(len(last.body(path)), last.modified_at * 10**9, etag=tag)
        return Expected(held, changed_at=last.changed_at)

    def body(self, path: str) -> bytes:
        """Return what visitors should get now."""
        if self.expected(path).is_deleted:
            return ABSENT
        return self.changed.get(path, self.first).body(path)

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Send the present version, a 304, or a 404."""
        path = request.path.partition("?")[0]
        kind, is_changed = path.split("/")[1], path in self.changed
        last = self.changed.get(path, self.first)
        is_absent = (kind == "deleted" and is_changed) or (kind == "late" and not is_changed) or kind not in KINDS
        body, headers = (ABSENT, {}) if is_absent else self._content(request, kind, path, last)
        if not is_changed and not is_absent:
            headers["Age"] = str(OLD_SECONDS)
        named = request.headers.get("If-None-Match", "")
        status = 404 if is_absent else 304 if headers.get("ETag") and headers["ETag"] in named else 200
        request.send_response(status)
        headers |= {"Cache-Control": "public, max-age=3600"}
        if status != 304:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if status != 304:
            request.wfile.write(body)

    @staticmethod
    def _content(
        request: http.server.BaseHTTPRequestHandler, kind: str, path: str, last: Object
    ) -> tuple[bytes, dict[str, str]]:
        headers: dict[str, str] = {}
        tag, body = f'"{last.tag(path)}"', last.body(path)
        if kind in ("tag", "both", "late", "deleted"):
            headers["ETag"] = tag
        if kind == "weak":
            headers["ETag"] = f"W/{tag}"
        if kind in ("time", "both", "packed"):
            headers["Last-Modified"] = formatdate(last.modified_at, usegmt=True)
        if kind == "packed":
            headers |= {"Vary": "Accept-Encoding", "ETag": tag}
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                body = gzip.compress(body, mtime=0)
                headers |= {"Content-Encoding": "gzip", "ETag": f'{tag[:-1]}-gzip"'}
        return body, headers


def versions() -> closing[Versions]:
    """Run one."""
    return closing(Versions())
