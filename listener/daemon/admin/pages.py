"""What people see and decide: the page, its live updates, sign-in, and the three decisions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import structlog
from aiohttp import web

from listener.daemon.admin.authenticator import COOKIE, MARK, SESSION_SECONDS, Authenticator
from listener.daemon.admin.live import LiveUpdates
from listener.daemon.admin.rendering import PageContext, Renderer
from listener.daemon.status_page import Decision, PageSnapshot, StatusPage
from listener.errors import ConfigurationError
from listener.serving import HTTPRejection
from listener.store.letters import EVERY_LETTER, LetterFilter, LetterKind

__all__ = ["Pages"]

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
