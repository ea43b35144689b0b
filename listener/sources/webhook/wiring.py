"""From settings to guards."""

from __future__ import annotations

from collections.abc import Callable, Collection

from listener.clock import Clock
from listener.sources.webhook.alibaba import EventBridge, Mns
from listener.sources.webhook.certificates import Certificates, Fetch
from listener.sources.webhook.guards import Anonymous, Guard, Hmac, OpaqueToken, Token
from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.sns import Sns

__all__ = ["make_guards"]


def make_guards(
    settings: WebhookSettings,
    certificates: Certificates,
    *,
    fetch: Fetch,
    clock: Clock,
    unsubscribed: Callable[[Collection[str]], None],
) -> list[Guard]:
    """Return the guards in the order in which they are asked: those whose mark is surest first."""
    guards: list[Guard] = []
    if settings.sns_topics:
        guards.append(
            Sns(
                settings.sns_topics,
                window_seconds=settings.sns_replay_seconds,
                more_hosts=settings.certificate_hosts,
                certificates=certificates,
                fetch=fetch,
                clock=clock,
                unsubscribed=unsubscribed,
            )
        )
    if settings.mns_topics:
        guards.append(
            Mns(
                settings.mns_topics,
                window_seconds=settings.replay_seconds,
                more_hosts=settings.certificate_hosts,
                certificates=certificates,
                clock=clock,
            )
        )
    if settings.eventbridge_accounts:
        guards.append(
            EventBridge(
                settings.eventbridge_accounts,
                window_seconds=settings.replay_seconds,
                more_hosts=settings.certificate_hosts,
                public_url=settings.public_url,
                token=_header_token(settings),
                certificates=certificates,
                clock=clock,
            )
        )
    return guards + _shared_secrets(settings, clock)


def _header_token(settings: WebhookSettings) -> Token | None:
    if settings.token is None:
        return None
    return Token(settings.token.get_secret_value(), header=settings.credential_header)


def _shared_secrets(settings: WebhookSettings, clock: Clock) -> list[Guard]:
    if settings.anonymous:
        return [Anonymous()]
    if settings.token is not None and settings.opaque_data:
        return [OpaqueToken(settings.token.get_secret_value())]
    if (token := _header_token(settings)) is not None:
        return [token]
    if settings.secret is not None:
        return [
            Hmac(
                settings.secret.get_secret_value(),
                header=settings.signature_header,
                timestamp_header=settings.timestamp_header,
                window_seconds=settings.replay_seconds,
                clock=clock,
            )
        ]
    return []
