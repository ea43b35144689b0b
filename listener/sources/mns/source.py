"""The mns source: events of OSS that come by a queue."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from listener.alibaba import KeyInUse, key_source, require_key
from listener.clock import Clock, SystemClock
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.egress import proxy_for
from listener.sources.mns import checks, setup
from listener.sources.mns.client import QueueClient
from listener.sources.mns.session import Session
from listener.sources.mns.settings import MnsSettings

__all__ = ["MnsSource"]


class MnsSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are those of the objects."""

    Settings: ClassVar[type[BaseModel]] = MnsSettings

    def __init__(
        self,
        name: str,
        settings: MnsSettings,
        *,
        clock: Clock | None = None,
        randomness: random.Random | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the settings; read no key and open no connection."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self.settings = settings
        self._clock = clock or SystemClock()
        self._random = randomness or random.Random()  # noqa: S311 - spreads retries
        self._environment = os.environ if environment is None else environment

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """
        Yield what the queue brings; it never ends by itself.

        What keeps the queue from being read is told in ``health``, and tried again with growing waits.
        """
        session = Session(
            self.name,
            self.settings,
            self.client(),
            health=self.health,
            clock=self._clock,
            randomness=self._random,
        )
        try:
            async with contextlib.aclosing(session.run()) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        finally:
            self.health.state, self.health.ready = SourceState.STOPPED, False

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` for no usable access key, or a proxy that is none."""
        proxy_for(self.settings.endpoint)
        await require_key(self.settings, self._environment)

    async def check(self) -> Sequence[Check]:
        """Look whether the queue can be read and deleted from, how it is set, and how far the clocks are apart."""
        client = self.client()
        try:
            return await checks.probe(self.name, self.settings, client)
        finally:
            await client.close()

    def setup(self) -> str:
        """Return the queue, the event rule and the policy to make, as commands to paste."""
        return setup.instructions(self.settings)

    def client(self) -> QueueClient:
        """Return a client of the queue; the caller closes it."""
        keys = KeyInUse(key_source(self.settings, self._environment))
        return QueueClient(self.settings, keys=keys, clock=self._clock)
