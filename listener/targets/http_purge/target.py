"""The contract of a target, for caches that one runs oneself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import BaseModel

from listener.contracts import (
    Check,
    CheckState,
    Eviction,
    KindLimits,
    Pace,
    Questions,
    SettingQuestion,
    TargetBase,
    UnknownOutcome,
)
from listener.errors import Misconfigured, OutcomeUnknown, TargetError, Throttled, Unavailable
from listener.refresh import Receipt, RefreshKind
from listener.targets.http_purge.presets import (
    KNOWS_ABSENCE,
    Answer,
    PurgeRequest,
    Verdict,
    hint_of,
    judge,
    purge_request,
)
from listener.targets.http_purge.settings import Settings as HttpPurgeSettings

if TYPE_CHECKING:
    from listener.targets.http_purge.servers import CacheServer

__all__ = ["HttpPurge"]

BATCH_URLS: Final = 200
BATCH_DIRECTORIES: Final = 20
"""URLs and directories of one request to all caches, which ends when the slowest has answered."""


class HttpPurge(TargetBase):
    """Caches with the same content. A URL is fresh once each of them has dropped it."""

    Settings: ClassVar[type[BaseModel]] = HttpPurgeSettings
    questions: ClassVar[Questions] = Questions(
        settings=(
            SettingQuestion(
                key="preset", text="What they are: varnish, nginx, squid or trafficserver", default="varnish"
            ),
        ),
        endpoint_key="servers",
        endpoint_text="Addresses of the caches, such as http://10.0.0.5:6081",
        endpoint_is_list=True,
    )
    unknown_outcome = UnknownOutcome.REPEAT
    confirms_by_answer = True
    pace = Pace(lanes=4)

    def __init__(self, name: str, settings: HttpPurgeSettings) -> None:
        """Keep the settings; open no connection before the first call."""
        super().__init__(name, settings)
        self.settings: HttpPurgeSettings = settings
        self.limits = _limits(settings)
        self._servers: list[CacheServer] | None = None

    def place(self, url: str) -> str:  # noqa: ARG002 - each URL is a request of its own anyway
        """Return one place for all URLs."""
        return ""

    def _connected(self) -> list[CacheServer]:
        if self._servers is None:
            # aiohttp is slow to import, and commands that only read the state file make no call.
            from listener.targets.http_purge.servers import CacheServer, open_session  # noqa: PLC0415

            self._servers = [
                CacheServer(address, self.settings, open_session(self.settings)) for address in self.settings.servers
            ]
        return self._servers

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:  # noqa: ARG002
        """
        Send every purge to every cache, whatever the others answer; return once each has answered.

        What one of several caches did not drop is ``unfinished``. Raises a :class:`~listener.errors.TargetError` where
        no cache did anything.
        """
        requests = {url: purge_request(self.settings, kind, url, force=force) for url in urls}
        servers = self._connected()
        failed = await asyncio.gather(*(server.purge(requests) for server in servers))
        if all(len(each) == len(requests) and not _rejected(each) for each in failed):
            raise _error(dict(zip([server.address for server in servers], failed, strict=True)))
        refused: dict[str, str] = {}
        unfinished: dict[str, str] = {}
        for server, answers in zip(servers, failed, strict=True):
            for url, answer in answers.items():
                into = refused if answer.verdict is Verdict.REJECTED else unfinished
                words = f"{server.address} {answer.words}"
                into[url] = f"{into[url]}; {words}" if url in into else words
        return Receipt(refused=refused, unfinished=unfinished)

    async def check(self) -> Sequence[Check]:
        """Ask each cache to purge a URL that nobody has requested yet."""
        found = await asyncio.gather(*(self._check(server) for server in self._connected()))
        return [check for checks in found for check in checks]

    async def _check(self, server: CacheServer) -> list[Check]:
        """Check one cache: each kind of request that it would get."""
        checks = []
        for kind in self.limits:
            end = "/" if kind is RefreshKind.DIRECTORY else ""
            url = f"{server.address}/cdn-listener-check-{secrets.token_hex(8)}{end}"
            checks.append(await self._probed(server, kind, url))
            if checks[-1].state is CheckState.FAILED:
                break
        return checks

    async def _probed(self, server: CacheServer, kind: RefreshKind, url: str) -> Check:
        request = purge_request(self.settings, kind, url, force=True)
        subject = f"targets.{self.name}.servers: {server.address}"
        reply = await server.reply(request)
        answer = reply if isinstance(reply, Answer) else judge(self.settings, request, *reply[:2])
        if answer.verdict is not Verdict.DONE:
            return Check(subject, CheckState.FAILED, f"{answer.words}", answer.hint or "see the cache's log")
        assert not isinstance(reply, Answer)
        status, _, body = reply
        words = f"{kind.value}: answers {request.method} with HTTP {status}"
        if status == 200 and kind is RefreshKind.FILE and self.settings.preset in KNOWS_ABSENCE:
            message = f"{words} for a URL that it cannot have: the request went to the origin"
            return Check(subject, CheckState.FAILED, message, hint_of(self.settings, request))
        if status == 404 and await self._answers_alike(server, url, body):
            hint = "purge a URL that is cached, and see that the cache fetches it again"
            return Check(subject, CheckState.WARNING, f"{words}, as it answers GET: maybe nothing is purged", hint)
        return Check(subject, CheckState.OK, words)

    async def _answers_alike(self, server: CacheServer, url: str, body: bytes) -> bool:
        """Return whether a plain request gets the same answer, as it would from an origin that the purge went to."""
        path = url.removeprefix(server.address)
        plain = await server.reply(PurgeRequest("GET", path, server.address.partition("://")[2], {}))
        return not isinstance(plain, Answer) and bool(body) and (plain[0], plain[2]) == (404, body)

    async def close(self) -> None:
        """Close connections; may be called twice."""
        servers, self._servers = self._servers, None
        for server in servers or ():
            await server.close()


def _limits(settings: HttpPurgeSettings) -> dict[RefreshKind, KindLimits]:
    eviction = Eviction.EITHER if settings.soft else Eviction.HARD
    limits = {RefreshKind.FILE: KindLimits(BATCH_URLS, eviction=eviction)}
    if settings.subtree_by == "xkey":
        limits[RefreshKind.DIRECTORY] = KindLimits(BATCH_DIRECTORIES, eviction=eviction)
    if settings.subtree_by == "ban":  # which only evicts
        limits[RefreshKind.DIRECTORY] = KindLimits(BATCH_DIRECTORIES)
        limits[RefreshKind.IGNORE_PARAMS] = KindLimits(BATCH_DIRECTORIES)
    return limits


def _rejected(answers: Mapping[str, Answer]) -> bool:
    return any(answer.verdict is Verdict.REJECTED for answer in answers.values())


def _error(failed: Mapping[str, Mapping[str, Answer]]) -> TargetError:
    """Return the error of a request that no cache did: what is most likely to pass decides."""
    first = {address: next(iter(answers.values())) for address, answers in failed.items()}
    words = "; ".join(f"{address} {answer.words}" for address, answer in first.items())
    hint = "; ".join(dict.fromkeys(answer.hint for answer in first.values() if answer.hint))
    verdicts = {answer.verdict for answer in first.values()}
    if Verdict.UNKNOWN in verdicts:
        return OutcomeUnknown(words, hint=hint)
    if Verdict.FAILED in verdicts:
        return Unavailable(words, hint=hint)
    if Verdict.BUSY in verdicts:
        wait = min(answer.retry_after_seconds for answer in first.values() if answer.verdict is Verdict.BUSY)
        return Throttled(words, retry_after_seconds=wait)
    return Misconfigured(words, hint=hint)
