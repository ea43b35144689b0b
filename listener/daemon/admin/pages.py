"""
What people see and decide: the page, its live updates, sign-in, and the three decisions.

One snapshot serves all watchers, and each gets only the sections that changed (:class:`LiveUpdates`).
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import structlog
from aiohttp import web

from listener.daemon.admin.authenticator import COOKIE, MARK, SESSION_SECONDS, Authenticator
from listener.daemon.admin.rendering import PageContext, Renderer
from listener.daemon.status_page import Decision, PageSnapshot, StatusPage
from listener.errors import ConfigurationError, ListenerError
from listener.serving import HTTPRejection
from listener.store.letters import EVERY_LETTER, LetterFilter, LetterKind

__all__ = ["LiveUpdates", "Pages"]

log = structlog.get_logger()


ReadForm = Callable[[web.Request], Awaitable[Mapping[str, str]]]


class Pages:
    """Everything under ``/`` that a browser shows."""

    def __init__(self, status_page: StatusPage, authenticator: Authenticator, read_form: ReadForm) -> None:
        """Show this page to those that the authenticator admits; ``read_form`` reads a form within bounds."""
        self._status_page = status_page
        self._authenticator = authenticator
        self._read_form = read_form
        self._renderer = Renderer()
        self.live = LiveUpdates(status_page.snapshot)
        self._decisions: Mapping[str, Callable[[str], Awaitable[Decision]]] = {
            "retry": status_page.retry,
            "discard": status_page.discard,
            "refresh": status_page.refresh,
        }

    async def page(self, request: web.Request) -> web.Response:
        """Answer with the page, or with the sign-in where a token is required."""
        if not self._authenticator.may_read(request):
            return self._renderer.sign_in(status=401)
        snapshot = await self._status_page.snapshot()
        # In a thread: many rows take milliseconds, and what arrives meanwhile must not wait.
        return await asyncio.to_thread(self._renderer.page, await self._context(request, snapshot))

    def problem(self, status: int, message: str, hint: str) -> web.Response:
        """Answer with a page that explains the error, or with the sign-in where only the token is missing."""
        if status == 401:
            return self._renderer.sign_in(status=status)
        return self._renderer.problem(status, message, hint)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Answer with the changes of the page as they happen."""
        return await self.live.stream(request, functools.partial(self._sections, request))

    async def _sections(self, request: web.Request, snapshot: PageSnapshot) -> Mapping[str, str]:
        return await asyncio.to_thread(self._renderer.sections, await self._context(request, snapshot))

    async def _context(self, request: web.Request, snapshot: PageSnapshot) -> PageContext:
        searched = request.query.get("url", "").strip()
        may_decide = self._authenticator.signed_in(request)
        wanted = _letter_filter(request)
        return PageContext(
            snapshot=snapshot,
            letters=snapshot.letters if wanted == EVERY_LETTER else await self._status_page.letters(wanted),
            answer=await self._status_page.search(searched) if searched else None,
            may_decide=may_decide,
            has_token=self._authenticator.has_token,
            mark=self._authenticator.mark_of(request) if may_decide else "",
            said=request.query.get("said", ""),
            count=request.query.get("count", ""),
        )

    async def sign_in(self, request: web.Request) -> web.Response:
        """Check the token and open a session."""
        self._authenticator.check_origin(request)
        form = await self._read_form(request)
        try:
            session = self._authenticator.sign_in(form.get("token", "").strip(), request.remote or "")
        except HTTPRejection as rejected:
            if rejected.status == 429:
                raise
            log.warning("admin.sign_in_refused", peer=request.remote)
            return self._renderer.sign_in(status=rejected.status, problem=str(rejected))
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            COOKIE,
            session,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )
        log.info("admin.signed_in", peer=request.remote)
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session, wherever its cookie is used."""
        form = await self._read_form(request)
        self._authenticator.check_decision(request, form.get(MARK, ""))
        self._authenticator.sign_out(request)
        self.live.disconnect_all()
        response = web.Response(status=303, headers={"Location": "/"})
        response.del_cookie(COOKIE, httponly=True, samesite="Strict")
        return response

    async def decide(self, request: web.Request) -> web.Response:
        """Retry, discard or refresh; then show the page again."""
        form = await self._read_form(request)
        self._authenticator.check_decision(request, form.get(MARK, ""))
        what = request.match_info["decision"]
        subject, count = await self._decisions[what](form.get("subject", ""))
        log.info("admin.decided", decision=what, subject=subject, count=count, peer=request.remote)
        back = {"said": what, "count": str(count)} | ({"url": subject} if what == "refresh" else {})
        return web.Response(status=303, headers={"Location": f"/?{urlencode(back)}"})


def _letter_filter(request: web.Request) -> LetterFilter:
    """Return the filter of dead letters in the query."""
    query = request.query
    kind = query.get("kind", "")
    if kind and kind not in set(LetterKind):
        kinds = ", ".join(LetterKind)
        raise ConfigurationError(f"kind: {kind[:80]!r} is not a kind of dead letter", hint=f"use one of {kinds}")
    return LetterFilter(
        kind=LetterKind(kind) if kind else None,
        source=query.get("source") or None,
        prefix=query.get("prefix", ""),
        after=query.get("after", ""),
    )


MOST_WATCHERS = 32
"""Each holds a connection."""
INTERVAL_SECONDS = 0.25
"""The interval between snapshots while anybody watches."""
REST_FACTOR = 4
"""Snapshots take at most a fifth of the time."""
HEARTBEAT_SECONDS = 15.0
"""Something is sent at least this often, so that proxies keep the connection and a dead one is noticed."""
SEND_SECONDS = 10.0
"""A watcher that does not read within this time is disconnected; nothing is buffered for it."""
RETRY_MILLISECONDS = 2000
RETRY_AFTER_SECONDS = 30

Render = Callable[[PageSnapshot], Awaitable[Mapping[str, str]]]
"""Makes the sections of the page (id to HTML) for one watcher."""


class LiveUpdates:
    """The event streams of everybody who watches the page."""

    def __init__(self, load: Callable[[], Awaitable[PageSnapshot]]) -> None:
        """Load snapshots with ``load``, only while somebody watches."""
        self._load = load
        self._snapshot: PageSnapshot | None = None
        self._number = 0
        """The number of the snapshot, raised with each change."""
        self._changed = asyncio.Event()
        self._generation = 0
        """Raised to end all streams."""
        self._loading: asyncio.Task[None] | None = None
        self.watchers = 0

    def disconnect_all(self) -> None:
        """End every stream; browsers that may still watch reconnect by themselves."""
        self._generation += 1
        self._wake()

    async def close(self) -> None:
        """End every stream and stop loading snapshots."""
        self.disconnect_all()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def stream(self, request: web.Request, render: Render) -> web.StreamResponse:
        """Answer with server-sent events until this watcher leaves."""
        if self.watchers >= MOST_WATCHERS:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return web.Response(status=503, text="too many watch already\n", headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self.watchers += 1
        try:
            await response.prepare(request)
            await self._serve(response, render)
        except (ConnectionError, TimeoutError) as error:
            log.debug("admin.watcher_gone", error=str(error))
        finally:
            self.watchers -= 1
        return response

    async def _serve(self, response: web.StreamResponse, render: Render) -> None:
        loop = asyncio.get_running_loop()
        generation, number, sent_at = self._generation, -1, loop.time()
        shown: Mapping[str, str] = {}
        await _send(response, f"retry: {RETRY_MILLISECONDS}\n\n")
        while generation == self._generation:
            if self._loading is None or self._loading.done():
                self._loading = loop.create_task(self._follow(), name="load page snapshots")
            text = ""
            is_new = await self._newer(number, sent_at + HEARTBEAT_SECONDS)
            if generation != self._generation:
                break
            if is_new and self._snapshot is not None:
                number = self._number
                sections = await self._rendered(self._snapshot, render, shown)
                text, shown = _event_of(shown, sections), sections
            if not text and loop.time() - sent_at >= HEARTBEAT_SECONDS:
                text = ": still here\n\n"
            if text:
                await _send(response, text)
                sent_at = loop.time()

    async def _rendered(self, snapshot: PageSnapshot, render: Render, shown: Mapping[str, str]) -> Mapping[str, str]:
        """Render for one watcher; keep what is shown while nothing can be loaded."""
        try:
            return await render(snapshot)
        except ListenerError as error:
            log.debug("admin.nothing_to_show", error=str(error))
            return shown

    async def _newer(self, number: int, until: float) -> bool:
        """Return whether there is a newer snapshot, waiting for one until that time."""
        if self._snapshot is not None and number != self._number:
            return True
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self) -> None:
        """Load snapshots while anybody watches."""
        loop = asyncio.get_running_loop()
        while self.watchers:
            began = loop.time()
            await self._load_once()
            await asyncio.sleep(max(INTERVAL_SECONDS, REST_FACTOR * (loop.time() - began)))
        self._snapshot = None

    async def _load_once(self) -> None:
        try:
            snapshot = await self._load()
        except ListenerError as error:
            # During a reload, or while the store fails.
            log.debug("admin.nothing_to_show", error=str(error))
            return
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._number += 1
            self._wake()


def _event_of(shown: Mapping[str, str], sections: Mapping[str, str]) -> str:
    """Return the event with the sections that changed; empty where none did."""
    fresh = {name: html for name, html in sections.items() if shown.get(name) != html}
    return f"event: sections\ndata: {json.dumps(fresh)}\n\n" if fresh else ""


async def _send(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await response.write(text.encode())
