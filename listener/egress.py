"""
Outgoing connections: which proxy a call uses, and why a connection failed.

Every client gets its proxy here, or from boto3, which follows the same rules: ``HTTPS_PROXY`` for
``https://`` URLs, ``HTTP_PROXY`` for ``http://`` ones, ``NO_PROXY`` for the hosts (with their subdomains) that are
called directly, ``*`` for all. Lower-case names take precedence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from listener.errors import ConfigurationError
from listener.redaction import mask_text

__all__ = ["Advice", "Proxy", "connection_advice", "proxy_arguments", "proxy_for", "service_origin"]

PROXY_AUTHENTICATION_REQUIRED: Final = 407
_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that the environment names."""

    url: str
    """Without user-info, so that it may be shown."""
    variable: str
    """The name of the environment variable."""
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def words(self) -> str:
        """Its name in messages."""
        return f"through the proxy {self.url} ({self.variable})"


def service_origin(text: str, *, example: str) -> str:
    """
    Return the scheme, host and port of a service as they are given.

    Raises :class:`ValueError` for anything else, with an example of what is meant.
    """
    from yarl import URL  # noqa: PLC0415 - commands that make no call do not need it

    url = URL(text)
    if url.scheme not in _SCHEMES or not url.host:
        raise ValueError(f"must be a URL such as {example}")
    if url.user or url.password or url.path != "/" or url.query_string or url.fragment:
        raise ValueError(f"must hold scheme, host and port only, such as {example}")
    return str(url.origin())


def proxy_for(url: str) -> Proxy | None:
    """
    Return the proxy for a call to ``url``; None where it is called directly.

    Raises :class:`~listener.errors.ConfigurationError` for a variable that names no HTTP proxy.
    """
    parts = urlsplit(url)
    text = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if not text:
        return None
    lower = f"{parts.scheme}_proxy"
    variable = lower if os.environ.get(lower) else lower.upper()
    try:
        named = urlsplit(text if "://" in text else f"http://{text}")
        port = f":{named.port}" if named.port else ""
    except ValueError:
        raise _no_proxy(variable) from None
    host = f"[{named.hostname}]" if ":" in (named.hostname or "") else named.hostname
    if named.scheme not in _SCHEMES or not host:
        raise _no_proxy(variable)
    return Proxy(
        f"{named.scheme}://{host}{port}",
        variable,
        user=unquote(named.username or ""),
        password=unquote(named.password or ""),
    )


def proxy_arguments(url: str) -> dict[str, Any]:
    """Return the proxy arguments of an aiohttp session or call to ``url``. Raises like :func:`proxy_for`."""
    from aiohttp import BasicAuth  # noqa: PLC0415 - commands that read need no HTTP client

    proxy = proxy_for(url)
    if proxy is None:
        return {}
    has_password = bool(proxy.user or proxy.password)
    return {"proxy": proxy.url, "proxy_auth": BasicAuth(proxy.user, proxy.password, "utf-8") if has_password else None}


def _no_proxy(variable: str) -> ConfigurationError:
    return ConfigurationError(
        f"{variable}: is not the URL of an HTTP proxy",
        hint=f"write {variable}=http://HOST:PORT, or name the host in NO_PROXY",
    )


class Advice(NamedTuple):
    """Why a connection failed, and what to do."""

    cause: str
    """Empty where the error says enough."""
    hint: str


_TRUST: Final = (
    " to the system's trust store, or name its PEM file by SSL_CERT_FILE"
    " (AWS_CA_BUNDLE for S3, and for SQS with transport boto3)"
)
_UNKNOWN_AUTHORITY: Final = Advice(
    "the certificate of {host} was issued by an authority that this machine does not trust;"
    " a proxy that inspects TLS has an authority of its own",
    f"add the authority's certificate{_TRUST}",
)
_CAUSES: Final[Mapping[str, Advice]] = {
    "certificate has expired": Advice(
        "the certificate of {host} has expired, or the clock of this machine ({now}) is ahead",
        "compare `date -u` with the real time; if the clock is right, whoever runs {host} must renew the certificate",
    ),
    "certificate is not yet valid": Advice(
        "the certificate of {host} is not valid yet, or the clock of this machine ({now}) is behind",
        "compare `date -u` with the real time and synchronise the clock (NTP)",
    ),
    "self[- ]signed certificate in certificate chain": _UNKNOWN_AUTHORITY,
    "self[- ]signed certificate": Advice(
        "the certificate of {host} is self-signed", f"if that is intended, add this certificate{_TRUST}"
    ),
    "unable to (?:get (?:local )?issuer certificate|verify the first certificate)": _UNKNOWN_AUTHORITY,
    "hostname mismatch|ip address mismatch|certificate is not valid for|doesn't match": Advice(
        "the certificate that was presented is not for {host}",
        "check the host in {setting}; a name server or proxy may lead to another machine",
    ),
    "wrong.version.number|record.layer.failure|http.request\\b": Advice(
        "{host} does not speak TLS on that port",
        "check scheme and port in {setting}; the value of HTTPS_PROXY begins with http:// at most proxies",
    ),
}
"""By OpenSSL's message, in any client's error; the first match counts."""


def connection_advice(error: BaseException | str, url: str, *, setting: str) -> Advice:
    """
    Return why the connection to ``url`` failed, as far as the error shows it, and what to do.

    ``setting`` names what holds the host, for the hint.
    """
    text = mask_text(str(error))
    host = urlsplit(url).hostname or url
    for pattern, advice in _CAUSES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return Advice(*(words.format(host=host, setting=setting, now=_now()) for words in advice))
    try:
        proxy = proxy_for(url)
    except ConfigurationError as refused:
        return Advice(str(refused), refused.hint)
    if proxy is None:
        return Advice(
            "", f"check the network and {setting}; no proxy is set for it (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)"
        )
    if str(PROXY_AUTHENTICATION_REQUIRED) in text:
        return Advice(
            f"the proxy {proxy.url} requires a user name and a password",
            f"write {proxy.variable}=http://USER:PASSWORD@HOST:PORT, special characters percent-encoded",
        )
    return Advice(f"it goes {proxy.words}", f"check {proxy.variable}, NO_PROXY and {setting}")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
