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

import asyncio
import hashlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from listener.change import Change
from listener.contracts import Delivery, SourceHealth, Unreadable
from listener.errors import MalformedNotification
from listener.formats import decode
from listener.formats.keys import is_own as is_own_form
from listener.serving import Bodies, BodySpace, HTTPRejection
from listener.serving.requests import SERVER, rejection_headers
from listener.sources.webhook.authentication import Authenticated, Authenticator, RequestHead
from listener.sources.webhook.settings import WebhookSettings
from listener.text import printable

__all__ = ["Accepted", "PendingRequests", "Receiver", "Replays", "rejection"]

log = structlog.get_logger()

LOG_SECONDS: Final = 60.0
"""How often the same rejection is logged: a client that tries a thousand times a second must not fill the log."""
PINGS: Final = frozenset({b"", b"{}", b"[]", b"null", b'""'})
"""Empty bodies, by which senders check that the URL answers: MinIO does at each start."""
PING_BYTES: Final = 64

Claim = Callable[[web.BaseRequest, str], bool]
"""Counts the connection of a request for a credential; False where that has too many."""

MOST_TAKEN: Final = 1_000
"""Requests in one delivery: beyond, the first of them would wait for the last."""
MOST_REMEMBERED: Final = 20_000
"""Names that are kept, some 150 bytes each; the oldest go first, and are then merely recorded once more."""
_HEADERS: Final = CIMultiDict({"Server": SERVER})


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
        self._count("requests", outcome.name)
        return Accepted() if outcome.reason is None else kept(outcome)

    async def _receive(self, request: web.BaseRequest, space: BodySpace, claim: Claim) -> Outcome:
        """Make durable what a request brings; return what became of it."""
        head = RequestHead(request.method, request.raw_path, request.headers, request.remote or "")
        authenticator = self._authenticator(head)
        settings = self.settings
        body = await space.read(request, limit_bytes=settings.max_body_bytes, seconds=settings.request_seconds)
        authenticated = await authenticator.check(head, body)
        if not claim(request, self.name):
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections with this credential")
        if not authenticated.is_event:
            return Outcome("handshakes")
        content = body if authenticated.content is None else authenticated.content
        del body
        if len(content) < PING_BYTES and content.strip() in PINGS:
            return Outcome("pings")
        if authenticated.message_id and self._replays.is_known(authenticated.message_id, self._now()):
            return Outcome("repeated")
        changes, unreadable = self._decode(content, is_unwrapped=authenticated.content is not None)
        if not changes and not unreadable:
            return Outcome("ignored")
        is_own = bool(unreadable) and is_own_form(content)
        del content
        if not await self.pending.durable(changes, unreadable):
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "cannot be made durable at present")
        if authenticated.message_id:
            self._note(authenticated, changes)
        if unreadable:
            return Outcome("unreadable", unreadable[0].reason, is_own=is_own)
        return Outcome("accepted")

    def _note(self, authenticated: Authenticated, changes: Sequence[Change]) -> None:
        """Remember a durable message; one without a name of its own only where a second one must be the same event."""
        if not authenticated.id_is_digest:
            self._replays.note(authenticated.message_id, math.inf)
        elif all(change.event_time is not None or change.order is not None for change in changes):
            self._replays.note(authenticated.message_id, self._now() + self.settings.replay_seconds)

    def report(self, **figures: float) -> None:
        """Note figures of the server, and how many requests wait."""
        self._health.figures.update(figures, in_flight=len(self.pending))
        self._health.changed()

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
        changes = [self.settings.own(self.name, change) for change in decoded.changes]
        if decoded.ignored:
            self._count("ignored_records", by=decoded.ignored)
        now = self._health.last_event_at = self._now()
        times = [change.event_time for change in changes if change.event_time is not None]
        if times:
            self._health.figures["lag_seconds"] = round(max(0.0, now - max(times)), 3)
        return changes, (_dead_letter(body, "; ".join(decoded.unreadable)),) if decoded.unreadable else ()

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


class Outcome(NamedTuple):
    """What became of a request that was taken."""

    name: str
    """Of its figure."""
    reason: str | None = None
    """Why its body, or a part of it, could not be read and was kept as a dead letter."""
    is_own: bool = False
    """It is in the form for scripts of your own."""


def _dead_letter(body: bytes, reason: str) -> Unreadable:
    """Return what is kept; the same body is kept once, however often it is sent."""
    return Unreadable(hashlib.sha256(body).hexdigest().encode(), body, reason)


@dataclass(slots=True, eq=False)
class _PendingRequest:
    changes: Sequence[Change]
    unreadable: Sequence[Unreadable]
    until: float
    done: asyncio.Future[bool]


class PendingRequests:
    """
    Joins requests to deliveries, and acknowledgements to answers.

    While requests wait, one of them must be answered each minute, or the source is reported as stalled.
    """

    def __init__(self, *, commit_seconds: float, health: SourceHealth) -> None:
        """Be empty and open; no request waits longer than ``commit_seconds``."""
        self._commit_seconds = commit_seconds
        self._health = health
        self._arrived: deque[_PendingRequest] = deque()
        self._taken: deque[_PendingRequest] = deque()
        self._wake = asyncio.Event()
        self._waiting = 0
        self._is_open = True

    def __len__(self) -> int:
        """Return how many requests wait, taken or not."""
        return self._waiting

    async def durable(self, changes: Sequence[Change], unreadable: Sequence[Unreadable]) -> bool:
        """Wait until these are durable; return False where that took too long or the source ends."""
        if not self._is_open:
            return False
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiting:
            self._health.progressed(now)
        self._waiting += 1
        request = _PendingRequest(changes, unreadable, now + self._commit_seconds, loop.create_future())
        self._arrived.append(request)
        self._wake.set()
        try:
            return await request.done
        except asyncio.CancelledError:  # the client has gone
            self._left(1)
            raise

    async def take(self) -> Delivery:
        """Wait for requests; return one delivery with what they bring."""
        while not self._arrived:
            self._wake.clear()
            await self._wake.wait()
        taken = [self._arrived.popleft() for _ in range(min(MOST_TAKEN, len(self._arrived)))]
        self._taken.extend(taken)

        async def ack() -> None:
            self._answer(taken, durable=True)

        changes = [change for request in taken for change in request.changes]
        return Delivery(changes, ack, unreadable=[one for request in taken for one in request.unreadable])

    def sweep(self) -> None:
        """Answer the requests that have waited too long; both queues are in the order of their times."""
        now = asyncio.get_running_loop().time()
        for queue in (self._taken, self._arrived):
            while queue and (queue[0].done.done() or queue[0].until <= now):
                self._answer([queue.popleft()], durable=False)

    async def close(self) -> None:
        """Admit nothing more, answer what was not taken, and wait for the rest."""
        self._is_open = False
        self._answer(self._arrived, durable=False)
        self._arrived.clear()
        waiting = [request.done for request in self._taken if not request.done.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._commit_seconds)
        self._answer(self._taken, durable=False)
        self._taken.clear()

    def _answer(self, requests: Iterable[_PendingRequest], *, durable: bool) -> None:
        """Answer those of these requests that still wait."""
        answered = 0
        for request in requests:
            if not request.done.done():
                request.done.set_result(durable)
                answered += 1
        if answered:
            self._left(answered)

    def _left(self, count: int) -> None:
        """Report progress: so many requests wait no longer."""
        self._waiting -= count
        if self._waiting:
            self._health.progressed(asyncio.get_running_loop().time())
        else:
            self._health.rests()


class Replays:
    """
    Recognizes a message that was delivered twice, by its sender or by somebody who recorded it.

    Only what is durable is noted, so that answering a second delivery without recording it loses nothing.
    """

    def __init__(self) -> None:
        """Know no message."""
        self._until: OrderedDict[bytes, float] = OrderedDict()
        """By digest: a sender may choose a name of any length."""

    def is_known(self, message_id: str, now: float) -> bool:
        """Return whether this message is durable, and is still remembered at ``now``."""
        return bool(message_id) and self._until.get(_digest(message_id), -math.inf) > now

    def note(self, message_id: str, until: float) -> None:
        """Remember until then that this message is durable."""
        if message_id:
            digest = _digest(message_id)
            self._until[digest] = until
            self._until.move_to_end(digest)
            if len(self._until) > MOST_REMEMBERED:
                self._until.popitem(last=False)


def _digest(message_id: str) -> bytes:
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).digest()


class _AcceptedText:
    """The whole answer to what is accepted, made once a second for its date."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """Return the text."""
        second = int(time.time())
        if second != self._second:
            date = formatdate(second, usegmt=True)
            self._text = f"HTTP/1.1 204 No Content\r\nServer: {SERVER}\r\nDate: {date}\r\n\r\n".encode()
            self._second = second
        return self._text


_text: Final = _AcceptedText()


class Accepted(web.StreamResponse):
    """
    The answer to what is durable, or needs no refresh.

    It is always the same, so a client that keeps its connection and reads its answers gets one text instead of
    headers that aiohttp puts together: a sixth of the processor time of a request.
    """

    def __init__(self) -> None:
        """Have no body."""
        super().__init__(status=HTTPStatus.NO_CONTENT, headers=_HEADERS)
        self._is_sent = False

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays open."""
        return True if self._is_sent else super().keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the text where that is all that the client needs."""
        transport = request.transport
        if (
            transport is None
            or transport.is_closing()
            or transport.get_write_buffer_size()
            or request.version != HttpVersion11
            or not request.keep_alive
        ):
            return await super().prepare(request)
        transport.write(_text.now())
        self._is_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer."""
        if not self._is_sent:
            await super().write_eof(data)


def kept(outcome: Outcome) -> web.Response:
    """
    Return the answer to what was kept as a dead letter.

    It is a success: senders deliver in order, and one that is rejected for ever would hold up all that follows. A
    script that uses our own form gets 422, so that it ends with an error.
    """
    status = HTTPStatus.UNPROCESSABLE_ENTITY if outcome.is_own else HTTPStatus.ACCEPTED
    text = f"kept as a dead letter: {printable(outcome.reason or '')}; see cdn-listener dead-letters\n"
    return web.Response(status=status, text=text, headers=_HEADERS)


def rejection(rejected: HTTPRejection) -> web.Response:
    """Return the answer to what is not accepted, which ends the connection: only accepted clients keep theirs."""
    headers = {**_HEADERS, **rejection_headers(rejected.status)}
    if rejected.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "POST"
    response = web.Response(status=rejected.status, text=rejected.reason + "\n", headers=headers)
    response.force_close()
    return response
