"""Who may request what: host names, the token, sessions, and the mark against forged requests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from listener.serving import HTTPRejection, client_of
from listener.settings import AdminSettings

__all__ = ["COOKIE", "MARK", "SESSION_SECONDS", "Authenticator", "FailedAttempts"]

COOKIE = "cdn_listener_session"
MARK = "mark"
"""The form field that shows that a request comes from our own page."""
SESSION_SECONDS = 12 * 3600
"""A working day."""
MOST_SESSIONS = 256
"""Sessions at once; the oldest ends when there are more."""


class Authenticator:
    """
    Authenticates the requests of one admin server.

    Sessions are kept in this process, so that a sign-out ends one everywhere, and a restart or another token ends
    them all. Cookies know no ports: where other people's servers run under the same name, give this one a name of its
    own.
    """

    def __init__(self, settings: AdminSettings) -> None:
        """Follow these settings."""
        self._salt = secrets.token_bytes(32)
        self._failed = FailedAttempts()
        self._sessions: OrderedDict[bytes, float] = OrderedDict()
        """When each session ends, in seconds since the epoch, by the digest of its cookie."""
        self.follow(settings)

    def follow(self, settings: AdminSettings) -> None:
        """Follow other settings from now on."""
        self._token = settings.token.get_secret_value().encode() if settings.token else b""
        self._sessions.clear()
        own = settings.listen.rpartition(":")[0]
        self._hosts = {name.lower() for name in (*settings.hosts, own, "localhost") if name}

    @property
    def has_token(self) -> bool:
        """Whether a token is required."""
        return bool(self._token)

    def check_host(self, request: web.BaseRequest) -> None:
        """Raise :class:`HTTPRejection` for an unknown name: another page may have made it resolve to this address."""
        name = _host_name(request.headers.get("Host", ""))
        if name not in self._hosts and not _is_address(name) and not self._has_bearer(request):
            hint = "use localhost or the address, or add the name to admin.hosts"
            raise HTTPRejection(421, "this host name is not known to be the listener's", hint)

    def may_read(self, request: web.BaseRequest) -> bool:
        """Return whether this request may see what is behind the token."""
        return not self._token or self._has_bearer(request) or self.signed_in(request)

    def signed_in(self, request: web.BaseRequest) -> bool:
        """Return whether the request has a valid session."""
        ends_at = self._sessions.get(_digest(request.cookies.get(COOKIE, "")), -math.inf)
        return bool(self._token) and ends_at > time.time()

    def sign_in(self, token: str, client: str) -> str:
        """Return a session for the right token; raise :class:`HTTPRejection` for a wrong one, or after too many."""
        self._check_attempts(client)
        if not self._token or not _same(token, self._token.decode()):
            self._failed.count(client_of(client), time.monotonic())
            raise HTTPRejection(403, "that is not the token")
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = time.time() + SESSION_SECONDS
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def sign_out(self, request: web.BaseRequest) -> None:
        """End the session of this request, wherever else its cookie may be."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def _check_attempts(self, client: str) -> None:
        seconds = math.ceil(self._failed.wait_seconds(client_of(client), time.monotonic()))
        if seconds:
            raise HTTPRejection(429, "too many wrong tokens", f"try again in {seconds} s", retry_after_seconds=seconds)

    def mark_of(self, request: web.BaseRequest) -> str:
        """Return the mark of this request's session, which the page's forms send along."""
        cookie = request.cookies.get(COOKIE, "").encode("utf-8", "surrogateescape")
        return hmac.digest(self._salt, cookie, hashlib.sha256).hex()

    def check_decision(self, request: web.BaseRequest, mark: str) -> None:
        """Raise :class:`HTTPRejection` unless the request has the token and comes from our own page."""
        if not self._token:
            raise HTTPRejection(403, "nothing can be decided here without a token", "set LISTENER_ADMIN__TOKEN_FILE")
        if self._has_bearer(request):
            return
        self.check_origin(request)
        if not self.signed_in(request):
            raise HTTPRejection(401, "sign in first")
        if not _same(mark, self.mark_of(request)):
            raise HTTPRejection(403, "the form belongs to another session", "reload the page")

    def check_origin(self, request: web.BaseRequest) -> None:
        """Raise :class:`HTTPRejection` for a request that a page elsewhere made."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site not in (None, "same-origin") or (origin is not None and urlsplit(origin).netloc != request.host):
            raise HTTPRejection(403, "this request was made by another page")

    def _has_bearer(self, request: web.BaseRequest) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        return bool(self._token) and kind.lower() == "bearer" and _same(given.strip(), self._token.decode())


def _same(given: str, right: str) -> bool:
    """Compare in constant time, whatever the length: digests of both."""
    return hmac.compare_digest(_digest(given), _digest(right))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    """Return the name of a Host header without its port, in small letters."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).strip("[]").lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


MOST_WRONG_TOKENS: Final = 10
"""Wrong tokens in a minute; a person who mistypes is far below."""
PER_SECONDS: Final = 60.0
MOST_CLIENTS: Final = 1_024


class FailedAttempts:
    """Counts wrong tokens by client address; forgets the address seen longest ago first."""

    def __init__(self) -> None:
        """Start without any."""
        self._of: OrderedDict[str, list[float]] = OrderedDict()

    def wait_seconds(self, client: str, now: float) -> float:
        """Return how many seconds this client must wait before its next try; 0 for none."""
        times = self._of.get(client, ())
        recent = [at for at in times if now - at < PER_SECONDS]
        return PER_SECONDS - (now - recent[0]) if len(recent) >= MOST_WRONG_TOKENS else 0.0

    def count(self, client: str, now: float) -> None:
        """Count a wrong token."""
        times = [*(at for at in self._of.get(client, ()) if now - at < PER_SECONDS), now]
        self._of[client] = times[-MOST_WRONG_TOKENS:]
        self._of.move_to_end(client)
        if len(self._of) > MOST_CLIENTS:
            self._of.popitem(last=False)
