"""
Requests a URL as a visitor does, and judges the answer.

A probe is a GET of the first byte: a cache answers it from the copy that visitors get, while it may keep or fetch what
HEAD gets apart from that. With ``If-None-Match`` where the storage's tag is known, an equal copy costs no body at all.
No redirect is followed, nothing is decompressed, and of a body that comes all the same at most
:data:`MOST_BODY_BYTES` are read. No cookie, no credentials: only what any visitor sends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from listener import __version__
from listener.clock import Clock
from listener.edge.answers import SERVED, Answer, read_answer
from listener.edge.reach import GuardedResolver, PrivateAddress
from listener.edge.verdict import STALE, UNKNOWN, Expected, Verdict, judge, worst
from listener.egress import connection_advice, proxy_arguments, proxy_for
from listener.errors import ConfigurationError
from listener.redaction import mask_text
from listener.refresh import directory_of
from listener.settings.edge import BY_NAME, Edge

__all__ = ["NoAnswer", "Probe", "Prober", "origin_place"]

AT_ONCE: Final = 8
TIMEOUT_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
MOST_BODY_BYTES: Final = 4096
"""Past that the connection is closed instead of being used again."""
AGAIN_SECONDS: Final = 2.0
"""A cache that serves stale while it revalidates, or was purged softly, has the new copy at the second request."""
VISITORS_ENCODINGS: Final = "gzip, deflate, br, zstd"
PLAIN: Final = "identity"
_HEADERS: Final = {"User-Agent": f"cdn-listener/{__version__} (probe)", "Accept": "*/*"}
_UNSATISFIABLE: Final = 416


class NoAnswer(Exception):
    """There was no answer; the text says why."""


class Probe(NamedTuple):
    """What one probe found."""

    url: str
    edge: Edge
    verdict: Verdict
    answer: Answer | None = None
    """None where there was none."""


class Prober:
    """
    Probes within its own limit, for as long as its ``async with`` lasts.

    It connects only to the hosts of the URLs that it was given at the start, and to stated addresses.
    """

    def __init__(
        self,
        *,
        sites: Iterable[str],
        origins: Iterable[str] = (),
        stated: Iterable[Edge] = (),
        per_minute: float,
        clock: Clock,
    ) -> None:
        """
        Open nothing.

        Args:
            sites: base URLs of sites; their names lead to public or stated addresses.
            origins: base URLs of origins; their names may lead anywhere.
            stated: the addresses of edges.
            per_minute: requests a minute at most.
            clock: the time of day.
        """
        self._origins = {_root(one) for one in origins}
        self._roots = {_root(one) for one in sites} | self._origins
        self._stated = frozenset(one.host for one in stated)
        self._interval_seconds = 60 / per_minute
        self._clock = clock
        self._next_at = 0.0
        self._lanes = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], Mapping[str, Any]] = {}

    async def __aenter__(self) -> Self:
        """Prepare the connections."""
        named = list(self._origins)
        for root in self._roots:
            with suppress(ConfigurationError):  # each request reports it
                named += [proxy.url for proxy in [proxy_for(root)] if proxy is not None]
        trusted = {urlsplit(one).hostname or "" for one in named}
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(stated=self._stated, trusted_names=trusted), limit=AT_ONCE
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=MOST_BODY_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        if self._session is not None:
            await self._session.close()

    async def probe(self, url: str, expected: Expected, *, edge: Edge = BY_NAME, origin: Answer | None = None) -> Probe:
        """Request a URL and judge the answer; what is stale is requested twice, since a cache may mend itself."""
        first = await self._look(url, expected, edge, origin)
        if first.verdict.state != STALE:
            return first
        await asyncio.sleep(AGAIN_SECONDS)
        second = await self._look(url, expected, edge, origin)
        if second.answer is None:
            return first
        if second.verdict.state == STALE:
            return second
        reason = f"{second.verdict.reason}; the request before it got the old copy, as after a soft purge"
        return second._replace(verdict=Verdict(second.verdict.state, reason))

    async def _look(self, url: str, expected: Expected, edge: Edge, origin: Answer | None) -> Probe:
        """Request the variants that visitors get by compression, and judge each; the worst counts."""
        held = expected.fingerprint
        tag = (held.etag or "") if held is not None else ""
        try:
            answer = await self.ask(url, edge=edge, tag=tag)
            verdicts = [await self._judged(url, expected, answer, edge, origin)]
            if "accept-encoding" in answer.vary:
                plain = await self.ask(url, edge=edge, tag=tag, encodings=PLAIN)
                verdicts.append(await self._judged(url, expected, plain, edge, origin))
        except NoAnswer as error:
            return Probe(url, edge, Verdict(UNKNOWN, f"no answer: {error}"))
        return Probe(url, edge, worst(verdicts), answer)

    async def _judged(self, url: str, expected: Expected, answer: Answer, edge: Edge, origin: Answer | None) -> Verdict:
        verdict = judge(expected, answer, now=self._clock.now(), origin=origin)
        if not (expected.is_deleted and verdict.state == UNKNOWN and answer.status in SERVED):
            return verdict
        absent = await self.ask(_never_there(url), edge=edge)
        return judge(expected, answer, now=self._clock.now(), origin=origin, absent=absent)

    async def ask(
        self,
        url: str,
        *,
        edge: Edge = BY_NAME,
        tag: str = "",
        encodings: str = VISITORS_ENCODINGS,
        host: str = "",
    ) -> Answer:
        """
        Request a URL once, twice where it is empty. Raise :class:`NoAnswer`.

        Args:
            url: below a base URL of a site or an origin.
            edge: where to connect to.
            tag: the tag for ``If-None-Match``; none is sent where it is empty.
            encodings: for ``Accept-Encoding``.
            host: for ``Host`` and TLS instead of that of the URL.
        """
        headers = {"Accept-Encoding": encodings, "Range": "bytes=0-0"}
        if tag:
            headers["If-None-Match"] = f'"{tag}"'
        answer = await self._request(url, edge, headers, host)
        if answer.status == _UNSATISFIABLE:
            del headers["Range"]
            answer = await self._request(url, edge, headers, host)
        return answer._replace(matched=tag)

    async def _request(self, url: str, edge: Edge, headers: Mapping[str, str], host: str) -> Answer:
        scheme, authority, path = self._parts(url, edge)
        place = f"{scheme}://{edge.authority(authority)}{path}"
        named = host or (authority if edge.host else "")
        assert self._session is not None
        async with self._lanes:
            await self._turn()
            try:
                async with self._session.get(
                    URL(place, encoded=True),
                    headers={**headers, "Host": named} if named else headers,
                    allow_redirects=False,
                    server_hostname=urlsplit(f"//{named}").hostname,
                    **self._proxy(scheme, edge.authority(authority)),
                ) as response:
                    await response.content.read(MOST_BODY_BYTES)
                    if not response.content.at_eof():
                        response.close()
                    return read_answer(response.status, response.headers.items())
            except ConfigurationError as error:
                raise NoAnswer(f"{error}; {error.hint}") from None
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise NoAnswer(_why(error, url)) from None

    def _parts(self, url: str, edge: Edge) -> tuple[str, str, str]:
        """Return scheme, authority and the rest of a URL that may be requested. Raise :class:`NoAnswer`."""
        if _root(url) not in self._roots:
            raise NoAnswer("it is not a URL of a site")
        if edge.host and edge.host not in self._stated:
            raise NoAnswer(f"{edge} is not a stated address")
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        return scheme, authority, slash + path

    def _proxy(self, scheme: str, authority: str) -> Mapping[str, Any]:
        """Return the proxy's arguments for a call; reading the environment takes as long as a probe."""
        key = scheme, authority
        if key not in self._proxies:
            self._proxies[key] = proxy_arguments(f"{scheme}://{authority}/")
        return self._proxies[key]

    async def _turn(self) -> None:
        """Wait until the limit allows another request."""
        now = asyncio.get_running_loop().time()
        at, self._next_at = max(now, self._next_at), max(now, self._next_at) + self._interval_seconds
        if at > now:
            await asyncio.sleep(at - now)


def origin_place(origin_url: str, url: str, base: str) -> tuple[str, str]:
    """Return a URL below ``base`` at the origin, and the host to request there where the origin is an IP address."""
    host = urlsplit(origin_url).hostname or ""
    is_address = ":" in host or host.replace(".", "").isdecimal()
    return origin_url + url[len(base) :], urlsplit(url).netloc if is_address else ""


def _why(error: Exception, url: str) -> str:
    """Return why there is no answer."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, PrivateAddress):
        return str(cause)
    advice = connection_advice(error, url, setting="base_urls")
    return advice.cause or mask_text(str(error)) or type(error).__name__


def _root(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _never_there(url: str) -> str:
    """Return a URL next to this one that nobody ever requested, with the same ending."""
    name = url.partition("?")[0].rpartition("/")[2]
    return f"{directory_of(url)}cdn-listener-{secrets.token_hex(8)}{name[name.rfind('.') :] if '.' in name else ''}"
