"""One HTTP session for signed calls: what is signed is what is sent, answers are bounded, waits are spread."""

from __future__ import annotations

import random

import aiohttp

from listener import __version__
from listener.alibaba.replies import scrub
from listener.egress import proxy_arguments

__all__ = ["back_off_seconds", "open_session", "read_bounded", "words"]

IDLE_SECONDS = 4.0
"""Idle connections are closed before a server would: a write on a dying one has an unknown outcome."""
BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 8.0


def open_session(
    endpoint: str, *, connections: int, connect_seconds: float, answer_seconds: float, accept: str
) -> aiohttp.ClientSession:
    """
    Return a session for calls to ``endpoint``, through its proxy, without cookies or compression.

    Raises :class:`~listener.errors.ConfigurationError` where the environment names a proxy that is none.
    ``connect_seconds`` bounds a connection with its name look-up and TLS, ``answer_seconds`` a whole call;
    ``accept`` is the media type to ask for.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=answer_seconds, connect=connect_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Accept": accept,
            "Accept-Encoding": "identity",
            "User-Agent": f"cdn-listener/{__version__}",
        },
        trust_env=False,  # it would also take keys from ~/.netrc
        **proxy_arguments(endpoint),
    )


async def read_bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body. Raise :class:`aiohttp.ClientPayloadError` once it has more bytes than that."""
    parts, length = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > most_bytes:
            raise aiohttp.ClientPayloadError(f"the answer has more than {most_bytes} bytes")
    return b"".join(parts)


def back_off_seconds(randomness: random.Random, tried: int, *, most: float = LONGEST_BACK_OFF_SECONDS) -> float:
    """Return a wait before the next try after so many: anywhere up to a bound that doubles, with full jitter."""
    return randomness.uniform(0, min(most, BACK_OFF_SECONDS * 2.0 ** min(tried, 32)))


def words(error: BaseException) -> str:
    """Return a transport's error as text that may be shown."""
    return f"{type(error).__name__} {scrub(str(error))}".strip()
