"""The webhook source: what stores and clouds send by HTTP, answered once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

import structlog
from pydantic import BaseModel

from listener.clock import Clock, SystemClock
from listener.contracts import Check, Delivery, IndexView, SourceBase, SourceState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.settings import variable_of
from listener.sources.webhook.authentication import Certificates, Fetch, fetcher, make_authenticators
from listener.sources.webhook.checks import run_checks
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.server import Servers, WebhookServer
from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.setup import setup_text

__all__ = ["WebhookSource"]

log = structlog.get_logger()

_servers: WeakKeyDictionary[asyncio.AbstractEventLoop, Servers] = WeakKeyDictionary()
_unopened: WeakSet[WebhookSource] = WeakSet()
"""Sources that were made and not started: the other sources of the configuration, for ``check``."""


class WebhookSource(SourceBase):
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are objects of any bucket."""

    Settings: ClassVar[type[BaseModel]] = WebhookSettings
    settings: WebhookSettings

    def __init__(
        self, name: str, settings: WebhookSettings, *, fetch: Fetch | None = None, clock: Clock | None = None
    ) -> None:
        """Keep the settings; open nothing. ``fetch`` gets signing certificates, by default over the network."""
        super().__init__(name, settings)
        self._fetch = fetch or fetcher()
        self._clock = clock or SystemClock()
        self._server: WebhookServer | None = None
        _unopened.add(self)

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9181``; empty while it does not."""
        return self._server.address if self._server is not None else ""

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:  # noqa: ARG002 - events only
        """
        Yield what is sent, for ever; each request is answered when its delivery is acknowledged.

        Raises:
            ConfigurationError: there is no credential, the path is taken, or TLS files are wrong.
            SourceUnavailable: the address or a TLS file is not available (yet).
        """
        _unopened.discard(self)
        self._check_settings()
        certificates = Certificates(self._fetch, self._clock)
        authenticators = make_authenticators(
            self.settings, certificates, fetch=self._fetch, clock=self._clock, unsubscribed=self._unsubscribed
        )
        receiver = Receiver(self.name, self.settings, authenticators, health=self.health, now=self._clock.now)
        servers = _servers.setdefault(asyncio.get_running_loop(), Servers())
        try:
            self._server = await servers.join(receiver)
            self.health.state, self.health.ready = SourceState.LISTENING, True
            while True:
                yield await receiver.pending.take()
        except (ConfigurationError, SourceUnavailable):
            self.health.state = SourceState.FAILED
            raise
        finally:
            self.health.ready = False
            if self.health.state is not SourceState.FAILED:
                self.health.state = SourceState.STOPPED
            await self._end(receiver, servers)
            await certificates.close()

    async def _end(self, receiver: Receiver, servers: Servers) -> None:
        """Reject new requests, answer those that are being committed, and leave the server."""
        receiver.draining = True
        if self._server is not None and all(each.draining for each in self._server.receivers.values()):
            self._server.stop_accepting()
        await receiver.pending.close()
        await servers.leave(receiver)
        self._server = None

    def _unsubscribed(self, topics: Collection[str]) -> None:
        """Report the topics whose subscription has ended: nothing is wrong at this end, and yet changes are missed."""
        self.health.state = SourceState.DEGRADED if topics else SourceState.LISTENING
        self.health.detail = f"no longer subscribed: {', '.join(topics)}; subscribe again" if topics else ""

    def _check_settings(self) -> None:
        key = f"sources.{self.name}"
        if not self.settings.is_authenticated:
            variable = variable_of(f"{key}.token")
            raise ConfigurationError(
                f"{key}.token: not set, so no request could be authenticated",
                hint=f"set {variable} or {variable}_FILE (python -c 'import secrets; print(secrets.token_hex())'), "
                f"or {key}.secret, sns_topics, eventbridge_accounts; or anonymous = true",
            )

    async def check(self) -> Sequence[Check]:
        """Check address, path, credential and TLS files."""
        loop = asyncio.get_running_loop()
        servers = _servers.get(loop)
        is_served = servers is not None and servers.serves(self.settings.listen)
        others = [
            other.name
            for other in _unopened
            if other is not self and other.name != self.name and _place(other) == _place(self)
        ]
        return await run_checks(
            self.name, self.settings, is_served=is_served, others=others, check_credential=self._check_settings
        )

    def setup(self) -> str:
        """Return what to paste at each sender."""
        return setup_text(self.name, self.settings)


def _place(source: WebhookSource) -> tuple[str, str]:
    return source.settings.listen, source.settings.path
