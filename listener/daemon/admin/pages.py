"""What people see and decide: the page, its live news, sign-in, and the three decisions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import structlog
from aiohttp import web

from listener.daemon.admin.authenticator import COOKIE, MARK, SESSION_SECONDS, Authenticator
from listener.daemon.admin.live import Live
from listener.daemon.admin.rendering import Renderer, Seen
from listener.daemon.view import Decided, Glance, View
from listener.errors import ConfigurationError
from listener.serving import HTTPRejection
from listener.store.letters import EVERY_LETTER, LetterFilter, LetterKind

__all__ = ["Pages"]

log = structlog.get_logger()


ReadForm = Callable[[web.Request], Awaitable[Mapping[str, str]]]


class Pages:
    """Everything under ``/`` that a browser shows."""

    def __init__(self, view: View, authenticator: Authenticator, read_form: ReadForm) -> None:
        """Take whom to ask, who may, and what reads the body of a form within bounds."""
        self._view = view
        self._authenticator = authenticator
        self._read_form = read_form
        self._renderer = Renderer()
        self.live = Live(view.glance)
        self._decisions: Mapping[str, Callable[[str], Awaitable[Decided]]] = {
            "retry": view.retry,
            "discard": view.discard,
            "refresh": view.refresh,
        }

    async def page(self, request: web.Request) -> web.Response:
        """Answer with the page, or with the sign-in where a token is asked for."""
        if not self._authenticator.may_read(request):
            return self._renderer.sign_in(status=401)
        glance = await self._view.glance()
        # In a thread: many rows take milliseconds, and what arrives meanwhile must not wait.
        return await asyncio.to_thread(self._renderer.page, await self._seen(request, glance))

    def problem(self, status: int, message: str, hint: str) -> web.Response:
        """Answer with a page that says what went wrong; where only the token lacks, ask for it."""
        if status == 401:
            return self._renderer.sign_in(status=status)
        return self._renderer.problem(status, message, hint)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Answer with what is new on the page, as it happens."""
        return await self.live.stream(request, functools.partial(self._sections, request))

    async def _sections(self, request: web.Request, glance: Glance) -> Mapping[str, str]:
        return await asyncio.to_thread(self._renderer.sections, await self._seen(request, glance))

    async def _seen(self, request: web.Request, glance: Glance) -> Seen:
        asked = request.query.get("url", "").strip()
        may_decide = self._authenticator.signed_in(request)
        wanted = _letters_wanted(request)
        return Seen(
            glance=glance,
            letters=glance.letters if wanted == EVERY_LETTER else await self._view.letters(wanted),
            answer=await self._view.search(asked) if asked else None,
            may_decide=may_decide,
            has_token=self._authenticator.has_token,
            mark=self._authenticator.mark_of(request) if may_decide else "",
            said=request.query.get("said", ""),
            count=request.query.get("count", ""),
        )

    async def sign_in(self, request: web.Request) -> web.Response:
        """Take the token, and give a session for it."""
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
        """End the session, here and wherever else its cookie may be."""
        form = await self._read_form(request)
        self._authenticator.check_decision(request, form.get(MARK, ""))
        self._authenticator.sign_out(request)
        self.live.let_go()
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


def _letters_wanted(request: web.Request) -> LetterFilter:
    """Return which dead letters the query asks for."""
    query = request.query
    kind = query.get("kind", "")
    if kind and kind not in set(LetterKind):
        raise ConfigurationError(f"kind: {kind[:80]!r} is none", hint=f"one of {', '.join(LetterKind)}")
    return LetterFilter(
        kind=LetterKind(kind) if kind else None,
        source=query.get("source") or None,
        prefix=query.get("prefix", ""),
        after=query.get("after", ""),
    )
