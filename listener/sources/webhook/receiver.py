"""
The receiver: what becomes of one request.

::

    path ─▶ head authenticated ─▶ body ─▶ body authenticated ─▶ changes ─▶ durable ─▶ 204
     │404, 405   │401, 403          │408, 413  │401, 403, 503      │         └ not in time: 503
                                               └ too many          └ unreadable: durable too, as a
                                                 connections: 503    dead letter

A 2xx means that what was sent is in the state file. A body that cannot be parsed is answered so too, once it is kept
as a dead letter: senders deliver in order, and one that is rejected for ever would hold up all that follows. Only
what was authenticated is decoded.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from listener.change import Change
from listener.contracts import SourceHealth, Unreadable
from listener.errors import MalformedNotification
from listener.formats import decode
from listener.serving import Bodies, BodySpace, HTTPRejection
from listener.sources.webhook.answers import Accepted, rejection
from listener.sources.webhook.authentication import Authenticated, Authenticator, RequestHead
from listener.sources.webhook.pending_requests import PendingRequests
from listener.sources.webhook.replays import Replays
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Receiver"]

log = structlog.get_logger()

LOG_SECONDS: Final = 60.0
"""How often the same rejection is logged: a client that tries a thousand times a second must not fill the log."""
PINGS: Final = frozenset({b"", b"{}", b"[]", b"null", b'""'})
"""Empty bodies, by which senders check that the URL answers: MinIO does at each start."""
PING_BYTES: Final = 64

Claim = Callable[[web.BaseRequest, str], bool]
"""Counts the connection of a request for a credential; False where that has too many."""


class Receiver:
    """Takes the requests of one path for one source."""

    def __init__(
        self,
        name: str,
        settings: WebhookSettings,
        authenticators: Sequence[Authenticator],
        *,
        health: SourceHealth,
        now: Callable[[], float],
    ) -> None:
        """Be ready for requests."""
        self.name = name
        self.settings = settings
        self.pending = PendingRequests(commit_seconds=settings.commit_seconds, health=health)
        self._authenticators = tuple(authenticators)
        self._health = health
        self._now = now
        self._buckets = frozenset(settings.buckets) or None
        self._replays = Replays()
        self._logged_at: dict[str, float] = {}
        self.draining = False
        """True once nothing more is accepted: requests get 503 and come again."""
        self.is_gone = False
        """True once every request was answered."""

    async def answer(self, request: web.BaseRequest, bodies: Bodies, claim: Claim) -> web.StreamResponse:
        """Return the answer to one request."""
        try:
            with BodySpace(bodies) as space:
                outcome = await self._receive(request, space, claim)
        except HTTPRejection as rejected:
            self._count("requests", f"refused_{rejected.status:d}")
            self._log(rejected)
            return rejection(rejected)
        self._count("requests", outcome)
        return Accepted()

    async def _receive(self, request: web.BaseRequest, space: BodySpace, claim: Claim) -> str:
        """Make durable what a request brings; return what became of it, as the name of a figure."""
        head = RequestHead(request.method, request.raw_path, request.headers, request.remote or "")
        authenticator = self._authenticator(head)
        settings = self.settings
        body = await space.read(request, limit_bytes=settings.max_body_bytes, seconds=settings.request_seconds)
        authenticated = await authenticator.check(head, body)
        if not claim(request, self.name):
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections with this credential")
        if not authenticated.is_event:
            return "handshakes"
        content = body if authenticated.content is None else authenticated.content
        del body
        if len(content) < PING_BYTES and content.strip() in PINGS:
            return "pings"
        if authenticated.message_id and self._replays.is_known(authenticated.message_id, self._now()):
            return "repeated"
        changes, unreadable = self._decode(content, is_unwrapped=authenticated.content is not None)
        if not changes and not unreadable:
            return "ignored"
        del content
        if not await self.pending.durable(changes, unreadable):
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "cannot be made durable at present")
        if authenticated.message_id:
            self._note(authenticated, changes)
        return "unreadable" if unreadable else "accepted"

    def _note(self, authenticated: Authenticated, changes: Sequence[Change]) -> None:
        """Remember a durable message; one without a name of its own only where a second one must be the same event."""
        if not authenticated.id_is_digest:
            self._replays.note(authenticated.message_id, math.inf)
        elif all(change.event_time is not None or change.order is not None for change in changes):
            self._replays.note(authenticated.message_id, self._now() + self.settings.replay_seconds)

    def report(self, **figures: float) -> None:
        """Note figures of the server, and how many requests wait."""
        self._health.figures.update(figures, in_flight=len(self.pending))

    def _authenticator(self, head: RequestHead) -> Authenticator:
        """Return what will authenticate the body. Raise :class:`HTTPRejection` for what the head shows to be wrong."""
        if self.draining:
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        if head.method != "POST":
            raise HTTPRejection(HTTPStatus.METHOD_NOT_ALLOWED, "events are sent by POST")
        if head.headers.get("Content-Encoding", "identity") != "identity":
            raise HTTPRejection(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send it uncompressed")
        for authenticator in self._authenticators:
            if authenticator.matches(head):
                authenticator.check_head(head)
                return authenticator
        raise HTTPRejection(HTTPStatus.UNAUTHORIZED, "no credential that is accepted here")

    def _decode(self, body: bytes, *, is_unwrapped: bool) -> tuple[Sequence[Change], Sequence[Unreadable]]:
        """Return the changes of a body; ``is_unwrapped`` for what was inside an envelope of SNS."""
        named = self.settings.format
        try:
            decoded = decode(body, format="auto" if is_unwrapped and named == "sns" else named, roots=self._buckets)
        except MalformedNotification as error:
            self._health.last_event_at = self._now()
            return (), (_dead_letter(body, str(error)),)
        changes = [self._own(change) for change in decoded.changes]
        if decoded.ignored:
            self._count("ignored_records", by=decoded.ignored)
        now = self._health.last_event_at = self._now()
        times = [change.event_time for change in changes if change.event_time is not None]
        if times:
            self._health.figures["lag_seconds"] = round(max(0.0, now - max(times)), 3)
        return changes, (_dead_letter(body, "; ".join(decoded.unreadable)),) if decoded.unreadable else ()

    def _own(self, change: Change) -> Change:
        """Return the change as one of this source, whose only root has its own name."""
        key = f"{change.root}/{change.key}" if self.settings.bucket_prefix else change.key
        return Change(self.name, key, *change[2:])

    def _count(self, *names: str, by: int = 1) -> None:
        figures = self._health.figures
        for name in names:
            figures[name] = figures.get(name, 0) + by

    def _log(self, rejected: HTTPRejection) -> None:
        """Log a rejection, each reason once a minute."""
        now = time.monotonic()
        if now - self._logged_at.get(rejected.reason, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged_at[rejected.reason] = now
            log.warning(
                "webhook.refused",
                source=self.name,
                status=int(rejected.status),
                reason=rejected.reason,
                hint=rejected.hint,
            )


def _dead_letter(body: bytes, reason: str) -> Unreadable:
    """Return what is kept; the same body is kept once, however often it is sent."""
    return Unreadable(hashlib.sha256(body).hexdigest().encode(), body, reason)
