"""The mns source: OSS events from a queue of MNS."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from listener.alibaba import KeyInUse, key_source, require_key
from listener.clock import Clock
from listener.contracts import Check
from listener.egress import proxy_for
from listener.sources.mns.checks import run_checks
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.setup import setup_text
from listener.sources.mns.transport import MnsTransport
from listener.sources.queue.source import QueueSource

__all__ = ["MnsSource"]


class MnsSource(QueueSource[MnsSettings]):
    """See :class:`listener.contracts.Source`."""

    Settings: ClassVar[type[BaseModel]] = MnsSettings

    def __init__(
        self,
        name: str,
        settings: MnsSettings,
        *,
        clock: Clock | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the settings; read no key and open no connection."""
        super().__init__(name, settings, clock=clock)
        self._environment = os.environ if environment is None else environment

    def transport(self) -> MnsTransport:
        """Return a new transport to the queue."""
        keys = KeyInUse(key_source(self.settings, self._environment))
        return MnsTransport(self.settings, keys=keys, clock=self._clock)

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` without a usable access key or proxy setting."""
        proxy_for(self.settings.endpoint)
        await require_key(self.settings, self._environment)

    async def check(self) -> Sequence[Check]:
        """Check whether messages can be received and deleted, the queue's settings, and the clock."""
        transport = self.transport()
        try:
            return await run_checks(self.name, self.settings, transport)
        finally:
            await transport.close()

    def setup(self) -> str:
        """Return commands that create the queue, the event rule and the policy."""
        return setup_text(self.settings)
