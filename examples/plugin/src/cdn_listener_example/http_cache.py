"""A target: HTTP caches such as Varnish or nginx that drop a URL on a PURGE request."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

import aiohttp
from pydantic import Field, SecretStr
from yarl import URL

from listener.contracts import Check, CheckState, KindLimits, Questions, TargetBase, UnknownOutcome, secret_setting
from listener.errors import BatchRejected, Misconfigured, OutcomeUnknown, Throttled, Unavailable
from listener.refresh import Receipt, RefreshKind
from listener.settings import Section

RETRY_SECONDS = 5.0


class HttpCache(TargetBase):
    """Some caches with the same content. Each gets every purge."""

    class Settings(Section):
        """``[targets.NAME]`` with ``type = "http-cache"``."""

        caches: Annotated[list[str], Field(min_length=1)]
        """Address of each cache, such as ``http://10.0.0.7:6081``."""
        token: SecretStr = SecretStr("")
        """Sent as ``Authorization: Bearer …`` unless empty."""
        timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
        """How long a cache may take to answer."""

    limits = {
        RefreshKind.FILE: KindLimits(batch_urls=50),
        RefreshKind.DIRECTORY: KindLimits(batch_urls=1),
    }
    unknown_outcome = UnknownOutcome.REPEAT
    confirms_by_answer = True

    questions = Questions(
        endpoint_key="caches",
        endpoint_text="Address of each cache, separated by commas",
        endpoint_is_list=True,
        credentials=(secret_setting("token", "Token that the caches demand (empty: none)", required=False),),
    )

    _session: aiohttp.ClientSession | None = None

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Purge each URL, or for a directory everything below it, in each cache."""
        for cache in self.settings.caches:
            for url in urls:
                await self._purge(cache, f"{url}*" if kind is RefreshKind.DIRECTORY else url)
        return Receipt()

    async def _purge(self, cache: str, url: str) -> None:
        status, retry_after = await self._request("PURGE", cache, url)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED):
            raise Misconfigured(f"{cache} refuses to purge: HTTP {status}", hint="allow PURGE there; check the token")
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            wait = float(retry_after) if retry_after.isdigit() else RETRY_SECONDS
            raise Throttled(f"{cache} is busy: HTTP {status}", retry_after_seconds=wait)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"{cache} answered HTTP {status}")
        if status >= HTTPStatus.BAD_REQUEST and status != HTTPStatus.NOT_FOUND:  # 404: it was not cached
            raise BatchRejected(f"{cache} rejects {url}: HTTP {status}")

    async def _request(self, method: str, cache: str, url: str) -> tuple[int, str]:
        """Send the request for a URL to a cache; return the status and Retry-After."""
        wanted = URL(url, encoded=True)
        headers = {"Host": wanted.raw_authority}
        if token := self.settings.token.get_secret_value():
            headers["Authorization"] = f"Bearer {token}"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.settings.timeout_seconds))
        address = URL(cache.rstrip("/") + wanted.raw_path_qs, encoded=True)
        try:
            async with self._session.request(method, address, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers.get("Retry-After", "")
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"cannot connect to {cache}: {error.strerror}", hint="does the cache run?") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # The request may have been written: only the answer is missing.
            raise OutcomeUnknown(f"no answer from {cache}: {type(error).__name__}") from error

    async def check(self) -> Sequence[Check]:
        """Ask each cache for something, without purging."""
        return [await self._check(cache) for cache in self.settings.caches]

    async def _check(self, cache: str) -> Check:
        subject = f"targets.{self.name}.caches"
        try:
            status, _ = await self._request("HEAD", cache, cache)
        except (OutcomeUnknown, Unavailable) as error:
            return Check(subject, CheckState.FAILED, str(error), "start the cache, or correct its address")
        return Check(subject, CheckState.OK, f"{cache} answers: HTTP {status}")

    async def close(self) -> None:
        """Close connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
