"""
The receiver: one request on its way to an answer.

::

    path ─▶ guard looks at the head ─▶ body ─▶ guard looks at the body ─▶ changes ─▶ durable ─▶ 204
     │404, 405    │401, 403              │408, 413    │401, 403, 503        │           └ not in time: 503
                                                                            └ unreadable: durable too, as it is

A 2xx means that what was sent is in the state file. A body that nobody can read is answered so too, once it
is set aside: senders deliver in order, and one that is refused for ever would hold up all that follows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

import structlog
from aiohttp import web

from listener.change import Change
from listener.contracts import SourceHealth, Unreadable
from listener.errors import MalformedNotification
from listener.formats import decode
from listener.sources.webhook.answers import Refused, accepted, refusal
from listener.sources.webhook.bodies import Bodies, Room
from listener.sources.webhook.guards import Guard, Request
from listener.sources.webhook.replays import Replays
from listener.sources.webhook.room import WaitingRoom
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Receiver"]

log = structlog.get_logger()

TOLD_EVERY_SECONDS = 60.0
"""How often the same refusal is logged: whoever knocks a thousand times a second must not fill the log."""


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
        self._scheme = "https" if settings.tls_certificate else "http"
        self._buckets = frozenset(settings.buckets) or None
        self._replays = Replays()
        self._told_at: dict[str, float] = {}
        self.draining = False
        """True once nothing more is taken: requests are told to come again."""
        self.is_gone = False
        """True once everybody was answered."""

    async def answer(self, request: web.BaseRequest, bodies: Bodies) -> web.StreamResponse:
        """Return the answer to one request."""
        try:
            with Room(bodies) as room:
                outcome = await self._take(request, room)
        except Refused as refused:
            self._count(f"refused_{refused.status:d}")
            self._tell(refused)
            return refusal(refused)
        self._count(outcome)
        return accepted()

    async def _take(self, request: web.BaseRequest, room: Room) -> str:
        """Bring one request to its end; return what became of it, a figure's name."""
        asked = Request(request.method, request.raw_path, request.headers, self._scheme)
        guard = self._guard(asked)
        body = await room.read(request, limit_bytes=self.settings.max_body_bytes, seconds=self.settings.request_seconds)
        admitted = await guard.check(asked, body)
        if not admitted.is_event:
            return "handshakes"
        if admitted.message_id in self._replays:
            return "repeated"
        changes, unreadable = self._read(body)
        self._health.last_event_at = self._now()
        if not changes and not unreadable:
            return "ignored"
        del body
        if not await self.room.durable(changes, unreadable):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "cannot be made durable at present")
        self._replays.note(admitted.message_id)
        return "unreadable" if unreadable else "accepted"

    def tell_figures(self, **figures: float) -> None:
        """Note figures of the server, and how many requests wait."""
        self._health.figures.update(figures, in_flight=len(self.room))

    def _guard(self, asked: Request) -> Guard:
        """Return the guard that will judge the body; refuse what can be refused by now."""
        if self.draining:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        if asked.method != "POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "events are sent by POST")
        if asked.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send it uncompressed")
        for guard in self._guards:
            if guard.knows(asked):
                guard.check_head(asked)
                return guard
        raise Refused(HTTPStatus.UNAUTHORIZED, "no credential that is asked for here")

    def _read(self, body: bytes) -> tuple[Sequence[Change], Sequence[Unreadable]]:
        try:
            decoded = decode(body, format=self.settings.format, roots=self._buckets)
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

    def _tell(self, refused: Refused) -> None:
        """Log a refusal, each kind now and then."""
        now = time.monotonic()
        if now - self._told_at.get(refused.reason, -TOLD_EVERY_SECONDS) >= TOLD_EVERY_SECONDS:
            self._told_at[refused.reason] = now
            log.warning("webhook.refused", source=self.name, status=int(refused.status), reason=refused.reason)


def _kept(body: bytes, reason: str) -> Unreadable:
    """Return what is set aside; the same body is kept once, however often it is sent."""
    return Unreadable(hashlib.sha256(body).hexdigest().encode(), body, reason)
