"""Who may ask for what: host names, the token, sessions, and the mark against forged requests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from urllib.parse import urlsplit

from aiohttp import web

from listener.settings import Admin

__all__ = ["COOKIE", "MARK", "SESSION_SECONDS", "Guard", "Refused"]

COOKIE = "cdn_listener_session"
MARK = "mark"
"""The form field that shows that a request comes from our own page."""
SESSION_SECONDS = 12 * 3600
"""A working day."""


class Refused(Exception):
    """A request that is not let through, with what to tell."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        """Keep the HTTP status and the words."""
        super().__init__(message)
        self.status = status
        self.hint = hint


class Guard:
    """
    Decides for one port.

    Sessions are signed, not kept: the key is made anew by each process and mixed with the token, so that a
    restart or another token ends them all. Cookies know no ports: where other people's servers run under the
    same name, give this one a name of its own.
    """

    def __init__(self, settings: Admin) -> None:
        """Follow these settings."""
        self._salt = secrets.token_bytes(32)
        self.follow(settings)

    def follow(self, settings: Admin) -> None:
        """Follow other settings from now on."""
        self._token = settings.token.get_secret_value().encode() if settings.token else b""
        self._key = hmac.digest(self._salt, self._token, hashlib.sha256)
        own = settings.listen.rpartition(":")[0]
        self._hosts = {name.lower() for name in (*settings.hosts, own, "localhost") if name}

    @property
    def has_token(self) -> bool:
        """Whether there is a token to be asked for."""
        return bool(self._token)

    def check_host(self, request: web.Request) -> None:
        """Raise :class:`Refused` for a name that is not known to be ours: a page elsewhere may have made it so."""
        name = _host_name(request.headers.get("Host", ""))
        if name not in self._hosts and not _is_address(name) and not self._has_bearer(request):
            hint = "use localhost or the address, or add the name to admin.hosts"
            raise Refused(421, "this host name is not known to be the listener's", hint)

    def may_read(self, request: web.Request) -> bool:
        """Tell whether this request may see what is behind the token."""
        return not self._token or self._has_bearer(request) or self.signed_in(request)

    def signed_in(self, request: web.Request) -> bool:
        """Tell whether it comes with a session of ours."""
        expires, _, rest = request.cookies.get(COOKIE, "").partition(".")
        nonce, _, seal = rest.partition(".")
        genuine = _same(seal, self._seal(f"session {expires} {nonce}"))
        return bool(self._token) and genuine and int(expires) > time.time()

    def sign_in(self, token: str) -> str:
        """Return a session for the right token; raise :class:`Refused` for another."""
        if not self._token or not _same(token, self._token.decode()):
            raise Refused(403, "that is not the token")
        expires, nonce = int(time.time()) + SESSION_SECONDS, secrets.token_urlsafe(18)
        return f"{expires}.{nonce}.{self._seal(f'session {expires} {nonce}')}"

    def mark_of(self, request: web.Request) -> str:
        """Return the mark of this request's session: what a form of our own page sends along."""
        return self._seal(f"mark {request.cookies.get(COOKIE, '')}")

    def check_decision(self, request: web.Request, mark: str) -> None:
        """Raise :class:`Refused` unless somebody with the token asks, and asks here."""
        if not self._token:
            raise Refused(403, "nothing can be decided here without a token", "set LISTENER_ADMIN__TOKEN_FILE")
        if self._has_bearer(request):
            return
        self.check_origin(request)
        if not self.signed_in(request):
            raise Refused(401, "sign in first")
        if not _same(mark, self.mark_of(request)):
            raise Refused(403, "this form is not of your session", "load the page again")

    def check_origin(self, request: web.Request) -> None:
        """Raise :class:`Refused` for a request that a page elsewhere made."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site not in (None, "same-origin") or (origin is not None and urlsplit(origin).netloc != request.host):
            raise Refused(403, "this request was made by another page")

    def _has_bearer(self, request: web.Request) -> bool:
        kind, _, told = request.headers.get("Authorization", "").partition(" ")
        return bool(self._token) and kind.lower() == "bearer" and _same(told.strip(), self._token.decode())

    def _seal(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()


def _same(told: str, true: str) -> bool:
    """Compare in constant time, whatever the length: digests of both."""
    ours, theirs = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (true, told))
    return hmac.compare_digest(ours, theirs)


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
