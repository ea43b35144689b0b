"""The checks of a webhook source: address, path, credential, certificate, open files; nothing is changed."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from listener.contracts import Check, CheckState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.serving import inherited_socket, try_address
from listener.serving.descriptors import files_for
from listener.serving.requests import SERVER
from listener.settings import is_loopback
from listener.sources.webhook.server import tls_context
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["run_checks"]

GOOD_SECRET_CHARACTERS: Final = 32
"""Of hexadecimal digits: 128 bits."""
SOON: Final = timedelta(days=14)
CONNECT_SECONDS: Final = 3.0


async def run_checks(
    name: str,
    settings: WebhookSettings,
    *,
    is_served: bool,
    others: Sequence[str],
    check_credential: Callable[[], None],
) -> Sequence[Check]:
    """
    Return the checks.

    Args:
        name: of the source.
        settings: its own.
        is_served: whether this very process listens on the address.
        others: names of other sources with the same address and path.
        check_credential: raises :class:`ConfigurationError` for a wrong format or a missing credential.
    """
    found = [await _address(name, settings, is_served=is_served), _path(name, settings, others)]
    found += _credential(name, settings, check_credential)
    found += await asyncio.to_thread(_certificate, name, settings)
    return [*found, *_files(name, settings)]


async def _address(name: str, settings: WebhookSettings, *, is_served: bool) -> Check:
    key, (host, port) = f"sources.{name}.listen", settings.address
    inherited = inherited_socket(host, port)
    if inherited is not None:
        inherited.close()
        return Check(key, CheckState.OK, f"{settings.listen} is opened by the service manager")
    error = await asyncio.to_thread(try_address, host, port)
    if error is None:
        return Check(key, CheckState.OK, f"{settings.listen} is free")
    if is_served or await _is_ours(settings):
        return Check(key, CheckState.OK, f"{settings.listen} is served by the daemon that runs")
    return Check(key, CheckState.FAILED, f"cannot listen on {settings.listen}: {error}", "name another address")


async def _is_ours(settings: WebhookSettings) -> bool:
    """Return whether what listens there is this product, by its name in the answer to a GET."""
    host, port = settings.address
    context = _unverified_context() if settings.tls_certificate else None
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return f"\r\nServer: {SERVER}\r\n".encode() in await reader.read(4096)
            finally:
                writer.close()
    return False


def _unverified_context() -> ssl.SSLContext:
    """Return a context that verifies nothing: only a name is read, and nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _path(name: str, settings: WebhookSettings, others: Sequence[str]) -> Check:
    key = f"sources.{name}.path"
    if others:
        hint = "give each source a path of its own"
        return Check(key, CheckState.FAILED, f"{settings.shown_path} is also that of {', '.join(sorted(others))}", hint)
    return Check(key, CheckState.OK, f"{settings.shown_path} is this source's own")


def _credential(name: str, settings: WebhookSettings, check_credential: Callable[[], None]) -> list[Check]:
    key = f"sources.{name}"
    try:
        check_credential()
    except ConfigurationError as error:
        return [Check(key, CheckState.FAILED, str(error), error.hint)]
    if settings.anonymous:
        return [
            Check(
                key,
                CheckState.WARNING,
                "unauthenticated: any client that can reach this port is trusted",
                "set a token or a secret",
            )
        ]
    found = [Check(key, CheckState.OK, f"requests are authenticated by {', '.join(_ways(settings))}")]
    found += [*_eventbridge(key, settings), *_replays(key, settings)]
    for word, secret in (("token", settings.token), ("secret", settings.secret)):
        if secret is not None and len(secret.get_secret_value()) < GOOD_SECRET_CHARACTERS:
            hint = "take a longer one: python -c 'import secrets; print(secrets.token_hex())'"
            found.append(
                Check(f"{key}.{word}", CheckState.WARNING, f"shorter than {GOOD_SECRET_CHARACTERS} characters", hint)
            )
    if settings.token is not None and not settings.tls_certificate and not is_loopback(settings.listen):
        hint = "set tls_certificate and tls_key, or let a proxy with TLS listen in front"
        found.append(Check(f"{key}.token", CheckState.WARNING, "travels unencrypted", hint))
    return found


def _eventbridge(key: str, settings: WebhookSettings) -> list[Check]:
    missing = [name for name in ("token", "public_url") if not getattr(settings, name)]
    if not settings.eventbridge_accounts or not missing:
        return []
    message = f"eventbridge_accounts: every event is rejected with 403 without {' and '.join(missing)}"
    hints = {
        "token": f"set {key}.token, and the same as the token of the HTTP target in EventBridge",
        "public_url": f"set {key}.public_url to the URL of that target, exactly",
    }
    return [Check(f"{key}.{missing[0]}", CheckState.FAILED, message, "; ".join(hints[name] for name in missing))]


def _replays(key: str, settings: WebhookSettings) -> list[Check]:
    if settings.secret is None or settings.timestamp_header:
        return []
    message = (
        f"no time is signed: a recorded request can be sent again after {settings.replay_seconds:g} s, and is accepted"
    )
    hint = "let the sender sign the time too, and name its header in timestamp_header; or use a token"
    return [Check(f"{key}.timestamp_header", CheckState.WARNING, message, hint)]


def _ways(settings: WebhookSettings) -> list[str]:
    ways = {
        "a token": settings.token,
        "an HMAC": settings.secret,
        "signatures of SNS": settings.sns_topics,
        "signatures of EventBridge": settings.eventbridge_accounts,
    }
    return [way for way, is_set in ways.items() if is_set]


def _certificate(name: str, settings: WebhookSettings) -> list[Check]:
    key = f"sources.{name}.tls_certificate"
    if settings.tls_certificate is None:
        return []
    try:
        tls_context(settings)
        certificate = x509.load_pem_x509_certificate(settings.tls_certificate.read_bytes())
    except (ConfigurationError, SourceUnavailable) as error:
        return [Check(key, CheckState.FAILED, str(error), error.hint)]
    except (OSError, ValueError) as error:
        return [Check(key, CheckState.FAILED, f"cannot be read: {error}", "name a PEM file")]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < SOON:
        state = CheckState.FAILED if left < timedelta() else CheckState.WARNING
        return [Check(key, state, f"valid until {until}", "renew it, and reload")]
    return [Check(key, CheckState.OK, f"valid until {until}")]


def _files(name: str, settings: WebhookSettings) -> list[Check]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_for(settings.max_connections)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return []
    return [
        Check(
            f"sources.{name}.max_connections",
            CheckState.WARNING,
            f"fewer than {settings.max_connections} connections are used: these need {needed} open files, "
            f"and the limit is {limit}",
            f"LimitNOFILE={needed} in the unit, ulimit -n {needed}, or fewer connections",
        )
    ]
