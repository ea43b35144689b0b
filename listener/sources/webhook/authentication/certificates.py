"""
The certificates with which clouds sign what they push.

A message names the address of its certificate, so the address is as hostile as the message. It must be https on a host
of the vendor; it is fetched without redirects, a few kilobytes within seconds, a bounded number of times for each
sender, and the answer is kept. Only TLS vouches for the host: not all certificates belong to a public chain.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

import aiohttp
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from listener.clock import Clock
from listener.egress import connection_advice, proxy_arguments
from listener.errors import ConfigurationError
from listener.serving import HTTPRejection, client_of

log = structlog.get_logger()

__all__ = [
    "Certificates",
    "ExpiringCache",
    "Fetch",
    "FetchFailed",
    "FetchLimits",
    "SharedCalls",
    "fetcher",
    "https_url",
]

MAX_BYTES: Final = 64 * 1024
FETCH_SECONDS: Final = 3.0
"""Less than the 5 seconds that some senders wait."""
MOST_CERTIFICATES: Final = 32
MOST_FAILURES: Final = 4_096
"""Addresses that are remembered to hold no certificate, some 300 bytes each."""
KEPT_SECONDS: Final = 24 * 3600.0
ABSENT_SECONDS: Final = 60.0
"""How long the answer that there is no such certificate is believed."""
RETRY_SECONDS: Final = 1.0
"""How long an address that did not answer is left alone."""

HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}
"""SHA-1 is what older forms of these signatures have; the message says which form, and each form one hash."""


T = TypeVar("T")

MOST_AT_ONCE: Final = 96
"""Fetches at once, of all senders: each is an open file, of those that are reserved for other things than listening."""
SENDER_AT_ONCE: Final = 64
"""Fetches at once for one sender: 20 a second that each take the whole three seconds leave room for a genuine one."""
SENDER_A_MINUTE: Final = 1_500
"""Fetches a minute for one sender: 25 a second."""
MOST_SENDERS: Final = 1_024


class FetchFailed(Exception):
    """The fetch failed; ``is_final`` when the server says that there is no such thing."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Keep whether asking again could help."""
        super().__init__(message)
        self.is_final = is_final


Fetch = Callable[[str], Awaitable[bytes]]
"""Returns what an https URL holds, a bounded number of bytes; raises :class:`FetchFailed`."""


def fetcher(context: ssl.SSLContext | None = None) -> Fetch:
    """Return a fetcher that trusts what this context trusts; by default the system's authorities."""

    async def fetch(url: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.get(url, allow_redirects=False, ssl=context or True, **proxy_arguments(url)) as response,
            ):
                body = await response.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                    body += more
        except (aiohttp.ClientError, ConfigurationError, OSError, TimeoutError, ValueError) as error:
            advice = connection_advice(error, url, setting="certificate_hosts")
            log.warning(
                "webhook.certificate_unreachable",
                url=url,
                error=f"{type(error).__name__} {error}",
                cause=advice.cause,
                hint=advice.hint,
            )
            raise FetchFailed(f"no answer: {type(error).__name__}") from error
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise FetchFailed(f"answered {response.status}")
        if response.status != HTTPStatus.OK or len(body) > MAX_BYTES:
            raise FetchFailed(f"answered {response.status}, {len(body)} bytes or more", is_final=True)
        return body

    return fetch


class SharedCalls(Generic[T]):
    """Calls under way, by name: whoever wants the same waits for the same call."""

    def __init__(self) -> None:
        """Make none."""
        self._tasks: dict[object, asyncio.Task[T]] = {}

    def __contains__(self, name: object) -> bool:
        """Return whether the call of this name is under way."""
        return name in self._tasks

    async def wait(self, name: object, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the call of this name returns; it goes on where those who wait for it leave."""
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(call())
            task.add_done_callback(lambda task: self._ended(task, name))
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[T], name: object) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled():
            task.exception()  # retrieved: every waiter may have left

    async def close(self) -> None:
        """Cancel all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Certificates:
    """
    Fetches each certificate once, and checks signatures with it.

    Certificates that have verified a signature are kept apart from those that have not, and from the addresses where
    there is none: whatever unsigned messages name, it evicts nothing that signed messages need.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        """Hold none."""
        self._fetch = fetch
        self._clock = clock
        self._verified: ExpiringCache[x509.Certificate] = ExpiringCache(MOST_CERTIFICATES)
        self._unproved: ExpiringCache[x509.Certificate] = ExpiringCache(MOST_CERTIFICATES)
        self._failures: ExpiringCache[HTTPRejection] = ExpiringCache(MOST_FAILURES)
        self._fetches: SharedCalls[x509.Certificate] = SharedCalls()
        self._limits = FetchLimits()

    async def check(
        self,
        url: str,
        *,
        signature: bytes,
        signed: tuple[bytes, ...],
        digest: str,
        sender: str,
    ) -> None:
        """
        Reject unless the certificate at ``url``, which the caller has found trustworthy, signed one of ``signed``.

        Raises :class:`HTTPRejection`: 403 for a wrong signature, 503 where the certificate cannot be had at present.
        """
        now = self._clock.now()
        certificate = self._verified.get(url, now)
        if certificate is None:
            certificate = await self._certificate(url, sender, now)
        if not _is_valid(certificate, now):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "the signing certificate is not valid now")
        key = _key(certificate)
        if key is None or not any(_verifies(key, signature, text, HASHES[digest]()) for text in signed):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong signature")
        if self._verified.get(url, now) is None:
            self._verified.put(url, certificate, now + KEPT_SECONDS)
            self._unproved.drop(url)

    async def _certificate(self, url: str, sender: str, now: float) -> x509.Certificate:
        """Return a certificate that has verified nothing yet, fetched where need be."""
        failure = self._failures.get(url, now)
        if failure is not None:
            raise HTTPRejection(failure.status, failure.reason)
        unproved = self._unproved.get(url, now)
        if unproved is not None:
            return unproved
        if url not in self._fetches:
            self._limits.begin(sender, now)
        return await self._fetches.wait(url, lambda: self._get(url, sender, now))

    async def _get(self, url: str, sender: str, now: float) -> x509.Certificate:
        try:
            certificate = _parse(await self._fetch(url))
        except FetchFailed as error:
            if not error.is_final:
                unavailable = HTTPRejection(
                    HTTPStatus.SERVICE_UNAVAILABLE, "the signing certificate cannot be had at present"
                )
                self._failures.put(url, unavailable, now + RETRY_SECONDS)
                raise unavailable from None
            certificate = None
        finally:
            self._limits.end(sender)
        if certificate is None:
            absent = HTTPRejection(HTTPStatus.FORBIDDEN, "there is no such signing certificate")
            self._failures.put(url, absent, now + ABSENT_SECONDS)
            raise absent
        self._unproved.put(url, certificate, now + KEPT_SECONDS)
        return certificate

    async def close(self) -> None:
        """Cancel fetches that are under way."""
        await self._fetches.close()


def https_url(text: str) -> SplitResult | None:
    """Return the parts of an https URL without user name, fragment or anything odd; ``None`` for any other text."""
    try:
        url = urlsplit(text)
    except ValueError:
        return None
    plain = text.isascii() and text.isprintable() and not set(text) & set(" \\@")
    return url if plain and url.scheme == "https" and not url.fragment else None


def _parse(body: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(body)
    except ValueError:
        return None


def _key(certificate: x509.Certificate) -> RSAPublicKey | None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, RSAPublicKey) else None


def _is_valid(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc <= datetime.fromtimestamp(now, UTC) <= certificate.not_valid_after_utc


def _verifies(key: RSAPublicKey, signature: bytes, signed: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        key.verify(signature, signed, PKCS1v15(), algorithm)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


class ExpiringCache(Generic[T]):
    """Values by name, each until a time, a bounded number of them: the one used longest ago goes first."""

    def __init__(self, most: int) -> None:
        """Hold none."""
        self._most = most
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def get(self, name: str, now: float) -> T | None:
        """Return the value of a name, unless its time is over."""
        value, until = self._values.get(name, (None, 0.0))
        if value is None or now >= until:
            return None
        self._values.move_to_end(name)
        return value

    def put(self, name: str, value: T, until: float) -> None:
        """Keep a value until a time."""
        self._values[name] = value, until
        self._values.move_to_end(name)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, name: str) -> None:
        """Keep a value no longer."""
        self._values.pop(name, None)


class FetchLimits:
    """How many fetches each sender may cause, at once and in a minute; a sender is what :func:`client_of` counts."""

    def __init__(self) -> None:
        """Have caused none."""
        self._under_way: dict[str, int] = {}
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, sender: str, now: float) -> None:
        """Count a fetch that begins now. Raise :class:`HTTPRejection` with 503 where there are too many."""
        sender = client_of(sender)
        begun = self._begun.setdefault(sender, deque(maxlen=SENDER_A_MINUTE))
        self._begun.move_to_end(sender)
        if len(self._begun) > MOST_SENDERS:
            self._begun.popitem(last=False)
        is_fast = len(begun) == SENDER_A_MINUTE and now - begun[0] < 60
        at_once = self._under_way.get(sender, 0)
        if is_fast or at_once >= SENDER_AT_ONCE or sum(self._under_way.values()) >= MOST_AT_ONCE:
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "too many certificates are being fetched")
        begun.append(now)
        self._under_way[sender] = at_once + 1

    def end(self, sender: str) -> None:
        """Count a fetch as ended."""
        sender = client_of(sender)
        self._under_way[sender] -= 1
        if not self._under_way[sender]:
            del self._under_way[sender]
