"""
Which request purges what, and what an answer means; no input or output.

An answer to a purge that the cache ignored comes from the origin, through the cache: it has headers that no cache gives
to a purge of its own (:data:`_DELIVERED`). Without them a 404 is what nginx, Squid and Traffic Server answer for a URL
that is not cached, and Varnish never, unless the operator's VCL says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from yarl import URL

from listener.refresh import RefreshKind
from listener.targets.http_purge.settings import Preset, Settings
from listener.text import whole_number

__all__ = ["KNOWS_ABSENCE", "Answer", "PurgeRequest", "Verdict", "hint_of", "judge", "purge_request"]


class PurgeRequest(NamedTuple):
    """One request to a cache."""

    method: str
    path: str
    """Path and query."""
    host: str
    headers: Mapping[str, str]


def purge_request(settings: Settings, kind: RefreshKind, url: str, *, force: bool) -> PurgeRequest:
    """Return the request that purges a URL, or what is below it; without ``force`` a soft one where that is set."""
    parsed = URL(url, encoded=True)
    host, path = settings.host or parsed.raw_authority, parsed.raw_path
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    soft = {settings.soft_header: "1"} if settings.soft and not force else {}
    if kind is RefreshKind.FILE:
        place = settings.path or ("/purge{path}" if settings.preset == "nginx" else "{path}")
        target = place.replace("{path}", parsed.raw_path_qs)
        return PurgeRequest(settings.method or "PURGE", target, host, headers | soft)
    if kind is RefreshKind.DIRECTORY and settings.subtree_by == "xkey":
        return PurgeRequest(settings.xkey_method, path, host, headers | soft | {settings.xkey_header: host + path})
    pattern = _escaped(path) + (r"(\?|$)" if kind is RefreshKind.IGNORE_PARAMS else "")
    return PurgeRequest(settings.ban_method, path, host, headers | {settings.ban_header: pattern})


def _escaped(path: str) -> str:
    """Escape what means something in a regular expression; a URL has neither blanks nor quotes."""
    return re.sub(r"([.*+$()|^\[\]{}?\\])", r"\\\1", path)


class Verdict(Enum):
    """What an answer means."""

    DONE = "done"
    REJECTED = "rejected"
    """This URL, by itself."""
    BUSY = "busy"
    FAILED = "failed"
    """The cache cannot do it now."""
    UNKNOWN = "unknown"
    """It was asked, and did not answer."""
    MISCONFIGURED = "misconfigured"
    """The cache will not do it for any URL until a person changes something."""


class Answer(NamedTuple):
    """What a cache answered, judged."""

    verdict: Verdict
    words: str = ""
    hint: str = ""
    retry_after_seconds: float = 0.0


_DELIVERED: Final = ("Age", "ETag", "Last-Modified", "Accept-Ranges", "Set-Cookie")
"""Headers of a delivered object: no answer to a purge was seen to have one, of Varnish 7.1, nginx 1.22 with cache-purge
2.3, Squid 5.7 and Traffic Server 9.2."""
_DONE: Final[Mapping[Preset, frozenset[int]]] = {
    "varnish": frozenset({200, 204, 404}),
    "nginx": frozenset({200, 202, 204, 404, 412}),
    "squid": frozenset({200, 204, 404}),
    "trafficserver": frozenset({200, 204, 404}),
    "custom": frozenset({200, 204, 404}),
}
"""404, and 412 of a fork of the nginx module: it was not cached."""
KNOWS_ABSENCE: Final[frozenset[Preset]] = frozenset({"nginx", "squid", "trafficserver"})
"""Those that answer differently for a URL that is not cached."""
_REFUSED: Final = frozenset({401, 403, 405, 407, 421, 501})
_CLIENT_ERRORS, _SERVER_ERRORS = range(400, 500), range(500, 600)
BUSY_SECONDS: Final = 5.0
LONGEST_WAIT_SECONDS: Final = 60.0
"""What an answer may make us wait at most: so long a cache that is well again keeps old copies."""
_HINTS: Final[Mapping[Preset, str]] = {
    "varnish": "handle {method} in vcl_recv, before anything else returns; docs/targets/http-purge.md has a VCL",
    "nginx": "add the purge location that docs/targets/http-purge.md shows, or correct `path`",
    "squid": "allow it: acl purge method PURGE, http_access allow purge ADDRESS",
    "trafficserver": "allow PURGE for this address in ip_allow.yaml",
    "custom": "let the cache handle {method}, or correct `method` and `path`",
}


def hint_of(settings: Settings, request: PurgeRequest) -> str:
    """Return what to do where a cache does not take this request."""
    return _HINTS[settings.preset].format(method=request.method)


def judge(settings: Settings, request: PurgeRequest, status: int, headers: Mapping[str, str]) -> Answer:
    """Return what an answer to a purge means."""
    answered = f"answered {request.method} with HTTP {status}"
    hint = hint_of(settings, request)
    ignores = Answer(Verdict.MISCONFIGURED, f"ignores {request.method}: {answered}", hint)
    if status in (frozenset(settings.done) or _DONE[settings.preset]):
        delivered = next((name for name in _DELIVERED if name in headers), None)
        is_done = delivered is None or settings.preset == "custom"
        return (
            Answer(Verdict.DONE)
            if is_done
            else ignores._replace(words=f"{ignores.words} and {delivered}, so an origin answered")
        )
    if status == 429 or (status == 503 and "Retry-After" in headers and "X-Varnish" not in headers):
        given = whole_number(headers.get("Retry-After", ""))
        wait = BUSY_SECONDS if given is None else min(float(given), LONGEST_WAIT_SECONDS)
        return Answer(Verdict.BUSY, answered, "", wait)
    if status in _REFUSED:
        return Answer(Verdict.MISCONFIGURED, f"refuses {request.method}: {answered}", f"{hint}; check `headers`")
    if status in _CLIENT_ERRORS and status != 404:
        return Answer(Verdict.REJECTED, answered)
    if status in _SERVER_ERRORS:
        return Answer(Verdict.FAILED, answered)
    return ignores
