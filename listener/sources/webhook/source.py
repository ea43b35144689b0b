"""The webhook source: what stores and clouds send by HTTP, answered once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

import structlog
from pydantic import BaseModel

from listener.clock import Clock, SystemClock
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.formats import FORMATS
from listener.sources.webhook.certificates import Certificates, Fetch, fetcher
from listener.sources.webhook.instructions import instructions
from listener.sources.webhook.probes import probe
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.server import Server
from listener.sources.webhook.servers import Servers
from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.wiring import make_guards

__all__ = ["WebhookSource"]

log = structlog.get_logger()

_servers: WeakKeyDictionary[asyncio.AbstractEventLoop, Servers] = WeakKeyDictionary()
_unopened: WeakSet[WebhookSource] = WeakSet()
"""Sources that were made and not started: the others of the configuration that ``check`` is asked about."""


class WebhookSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are objects of any bucket."""

    Settings: ClassVar[type[BaseModel]] = WebhookSettings

    def __init__(
        self, name: str, settings: WebhookSettings, *, fetch: Fetch | None = None, clock: Clock | None = None
    ) -> None:
        """Keep the settings; touch nothing. ``fetch`` gets what clouds sign with, by default over the network."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self.settings = settings
        self._fetch = fetch or fetcher()
        self._clock = clock or SystemClock()
        self._server: Server | None = None
        _unopened.add(self)

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9181``; empty while it does not."""
        return self._server.address if self._server is not None else ""

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:  # noqa: ARG002 - all is told
        """
        Yield what is sent, for ever; each request is answered when its delivery is acknowledged.

        Raises:
            ConfigurationError: there is no credential, the path is taken, or TLS files are wrong.
            SourceUnavailable: the address or a TLS file cannot be had (yet).
        """
        _unopened.discard(self)
        self._check_settings()
        certificates = Certificates(self._fetch, self._clock)
        guards = make_guards(
            self.settings, certificates, fetch=self._fetch, clock=self._clock, unsubscribed=self._unsubscribed
        )
        receiver = Receiver(self.name, self.settings, guards, health=self.health, now=self._clock.now)
        servers = _servers.setdefault(asyncio.get_running_loop(), Servers())
        try:
            self._server = await servers.join(receiver)
            self.health.state, self.health.ready = SourceState.LISTENING, True
            while True:
                yield await receiver.room.take()
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
        """Refuse what comes from now on, answer what is being committed, and leave."""
        receiver.draining = True
        if self._server is not None and all(each.draining for each in self._server.receivers.values()):
            self._server.stop_accepting()
        await receiver.room.close()
        await servers.leave(receiver)
        self._server = None

    def _unsubscribed(self, topics: Collection[str]) -> None:
        """Tell that some topics send no more: nothing is wrong with this end, and yet changes are missed."""
        self.health.state = SourceState.DEGRADED if topics else SourceState.LISTENING
        self.health.detail = f"no longer subscribed: {', '.join(topics)}; subscribe again" if topics else ""

    def _check_settings(self) -> None:
        key = f"sources.{self.name}"
        if self.settings.format not in FORMATS:
            raise ConfigurationError(
                f"{key}.format: there is no format {self.settings.format!r}", hint=f"one of: {', '.join(FORMATS)}"
            )
        if not self.settings.is_authenticated:
            variable = f"LISTENER_SOURCES__{self.name.upper().replace('-', '_')}__TOKEN"
            raise ConfigurationError(
                f"{key}.token: not set, so nobody could prove where a request comes from",
                hint=f"set {variable} or {variable}_FILE (python -c 'import secrets; print(secrets.token_hex())'), "
                f"or {key}.secret, sns_topics, mns_topics, eventbridge_accounts; or anonymous = true",
            )

    async def check(self) -> Sequence[Check]:
        """Look at address, path, credential and TLS files."""
        loop = asyncio.get_running_loop()
        servers = _servers.get(loop)
        is_served = servers is not None and servers.serves(self.settings.listen)
        others = [
            other.name
            for other in _unopened
            if other is not self and other.name != self.name and _place(other) == _place(self)
        ]
        return await probe(self.name, self.settings, is_served=is_served, others=others, guarded=self._check_settings)

    def setup(self) -> str:
        """Return what to paste where the events come from, by sender."""
        return instructions(self.name, self.settings)


def _place(source: WebhookSource) -> tuple[str, str]:
    return source.settings.listen, source.settings.path
