"""
Authentication of webhook requests: the first authenticator that matches a request decides.

============== ==================================================================
module         what it has
============== ==================================================================
shared_secrets the interface; token, HMAC, opaque data, none
signatures     what clouds sign: Amazon SNS with its subscriptions, Alibaba Cloud EventBridge
certificates   the clouds' signing certificates, fetched within limits
============== ==================================================================

What can be rejected by the head is rejected before the body is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from listener.clock import Clock
from listener.sources.webhook.authentication.certificates import Certificates, Fetch, fetcher
from listener.sources.webhook.authentication.shared_secrets import (
    Anonymous,
    Authenticated,
    Authenticator,
    Hmac,
    OpaqueToken,
    RequestHead,
    Token,
)
from listener.sources.webhook.authentication.signatures import EventBridge, Sns
from listener.sources.webhook.settings import WebhookSettings

__all__ = [
    "Authenticated",
    "Authenticator",
    "Certificates",
    "Fetch",
    "RequestHead",
    "fetcher",
    "make_authenticators",
]


def make_authenticators(
    settings: WebhookSettings,
    certificates: Certificates,
    *,
    fetch: Fetch,
    clock: Clock,
    unsubscribed: Callable[[Collection[str]], None],
) -> list[Authenticator]:
    """Return the authenticators of these settings, those with the surest mark first; see :class:`Sns`."""
    found: list[Authenticator] = []
    if settings.sns_topics:
        found.append(Sns(settings, certificates, fetch=fetch, clock=clock, unsubscribed=unsubscribed))
    if settings.eventbridge_accounts:
        found.append(EventBridge(settings, certificates, clock, _header_token(settings)))
    if (by_secret := _by_shared_secret(settings, clock)) is not None:
        found.append(by_secret)
    return found


def _by_shared_secret(settings: WebhookSettings, clock: Clock) -> Authenticator | None:
    if settings.anonymous:
        return Anonymous()
    if settings.token is not None and settings.opaque_data:
        return OpaqueToken(settings.token.get_secret_value())
    if settings.secret is not None:
        return Hmac(
            settings.secret.get_secret_value(),
            header=settings.signature_header,
            timestamp_header=settings.timestamp_header,
            window_seconds=settings.replay_seconds,
            clock=clock,
        )
    return _header_token(settings)


def _header_token(settings: WebhookSettings) -> Token | None:
    if settings.token is None:
        return None
    return Token(settings.token.get_secret_value(), header=settings.credential_header)
