"""
The receiver: one request on its way to an answer.

::

    path ─▶ guard checks the head ─▶ body ─▶ guard checks the body ─▶ changes ─▶ durable ─▶ 204
     │404, 405    │401, 403            │408, 413    │401, 403, 503        │         └ not in time: 503
                                                    └ too many             └ unreadable: durable too, as a
                                                      connections: 503       dead letter

A 2xx means that what was sent is in the state file. A body that cannot be read is answered so too, once it is kept
as a dead letter: senders deliver in order, and one that is rejected for ever would hold up all that follows. Only
what the guard authenticated is decoded.
"""

from __future__ import annotations

import asyncio
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
from listener.sources.webhook.answers import accepted, rejection
from listener.sources.webhook.guards import Authenticated, Guard, Request
from listener.sources.webhook.replays import Replays
from listener.sources.webhook.room import WaitingRoom
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Receiver"]

log = structlog.get_logger()

LOG_SECONDS: Final = 60.0
"""How often the same rejection is logged: a client that tries a thousand times a second must not fill the log."""
PINGS: Final = frozenset({b"", b"{}", b"[]", b"null", b'""'})
"""Bodies with nothing in them, by which senders ask whether anybody is there: MinIO does at each start."""

PING_BYTES: Final = 64

Claim = Callable[[web.BaseRequest, str], bool]
"""Counts the connection of a request for a credential; False where that has too many."""


class Receiver:
    """Takes the requests of one path for one source."""

    def __init__(
        self,
        name: str,
        settings: WebhookSettings,
        guards: Sequence[Guard],
        *,
        health: SourceHealth,
        now: Callable[[], float],
    ) -> None:
        """Be ready for requests."""
        self.name = name
        self.settings = settings
        self.room = WaitingRoom(commit_seconds=settings.commit_seconds)
        self._guards = tuple(guards)
        self._health = health
        self._now = now
        self._buckets = frozenset(settings.buckets) or None
        self._replays = Replays()
        self._logged_at: dict[str, float] = {}
        self._waiting = 0
        """Requests whose changes are not durable yet."""
        self.draining = False
        """True once nothing more is taken: requests are told to come again."""
        self.is_gone = False
        """True once everybody was answered."""

    async def answer(self, request: web.BaseRequest, bodies: Bodies, claim: Claim) -> web.StreamResponse:
        """Return the answer to one request."""
        try:
            with BodySpace(bodies) as space:
                outcome = await self._receive(request, space, claim)
        except HTTPRejection as rejected:
            self._count(f"refused_{rejected.status:d}")
            self._log(rejected)
            return rejection(rejected)
        self._count(outcome)
        return accepted()

    async def _receive(self, request: web.BaseRequest, space: BodySpace, claim: Claim) -> str:
        """Make durable what a request brings; return what became of it, as the name of a figure."""
        asked = Request(request.method, request.raw_path, request.headers, request.remote or "")
        guard = self._guard(asked)
        settings = self.settings
        body = await space.read(request, limit_bytes=settings.max_body_bytes, seconds=settings.request_seconds)
        authenticated = await guard.check(asked, body)
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
        changes, unreadable = self._read(content, is_unwrapped=authenticated.content is not None)
        self._health.last_event_at = self._now()
        if not changes and not unreadable:
            return "ignored"
        del content
        if not await self._durable(changes, unreadable):
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "cannot be made durable at present")
        if authenticated.message_id:
            self._note(authenticated, changes)
        return "unreadable" if unreadable else "accepted"

    async def _durable(self, changes: Sequence[Change], unreadable: Sequence[Unreadable]) -> bool:
        """Wait until these are durable. While authenticated requests wait, the source must answer one a minute."""
        now = asyncio.get_running_loop().time
        if not self._waiting:
            self._health.progressed(now())
        self._waiting += 1
        try:
            return await self.room.durable(changes, unreadable)
        finally:
            self._waiting -= 1
            if self._waiting:
                self._health.progressed(now())
            else:
                self._health.rests()

    def _note(self, authenticated: Authenticated, changes: Sequence[Change]) -> None:
        """Remember a durable message; one without a name of its own only where a second one must be the same event."""
        if not authenticated.id_is_digest:
            self._replays.note(authenticated.message_id, math.inf)
        elif all(change.event_time is not None or change.order is not None for change in changes):
            self._replays.note(authenticated.message_id, self._now() + self.settings.replay_seconds)

    def tell_figures(self, **figures: float) -> None:
        """Note figures of the server, and how many requests wait."""
        self._health.figures.update(figures, in_flight=len(self.room))

    def _guard(self, asked: Request) -> Guard:
        """Return the guard that will judge the body; refuse what can be refused by now."""
        if self.draining:
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        if asked.method != "POST":
            raise HTTPRejection(HTTPStatus.METHOD_NOT_ALLOWED, "events are sent by POST")
        if asked.headers.get("Content-Encoding", "identity") != "identity":
            raise HTTPRejection(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send it uncompressed")
        for guard in self._guards:
            if guard.knows(asked):
                guard.check_head(asked)
                return guard
        raise HTTPRejection(HTTPStatus.UNAUTHORIZED, "no credential that is asked for here")

    def _read(self, body: bytes, *, is_unwrapped: bool) -> tuple[Sequence[Change], Sequence[Unreadable]]:
        """Return what a body says; ``is_unwrapped`` for what a guard took out of an envelope of SNS."""
        named = self.settings.format
        try:
            decoded = decode(body, format="auto" if is_unwrapped and named == "sns" else named, roots=self._buckets)
        except MalformedNotification as error:
            return (), (_kept(body, str(error)),)
        changes = [self._ours(change) for change in decoded.changes]
        if decoded.ignored:
            self._count_more("ignored_records", decoded.ignored)
        times = [change.event_time for change in changes if change.event_time is not None]
        if times:
            self._health.figures["lag_seconds"] = round(max(0.0, self._now() - max(times)), 3)
        return changes, (_kept(body, "; ".join(decoded.unreadable)),) if decoded.unreadable else ()

    def _ours(self, change: Change) -> Change:
        """Return the change as one of this source, whose only root has its own name."""
        key = f"{change.root}/{change.key}" if self.settings.bucket_prefix else change.key
        return change._replace(root=self.name, key=key)

    def _count(self, outcome: str) -> None:
        self._count_more("requests", 1)
        self._count_more(outcome, 1)

    def _count_more(self, figure: str, count: int) -> None:
        figures = self._health.figures
        figures[figure] = figures.get(figure, 0) + count

    def _log(self, rejected: HTTPRejection) -> None:
        """Log a rejection, each reason now and then."""
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


def _kept(body: bytes, reason: str) -> Unreadable:
    """Return what is set aside; the same body is kept once, however often it is sent."""
    return Unreadable(hashlib.sha256(body).hexdigest().encode(), body, reason)
