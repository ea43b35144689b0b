"""The sqs source: S3 events from an SQS queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel

from listener.contracts import Check
from listener.sources.queue.source import QueueSource
from listener.sources.sqs.boto import SqsTransport
from listener.sources.sqs.checks import run_checks
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.setup import setup_text

__all__ = ["SqsSource"]


class SqsSource(QueueSource[SqsSettings]):
    """See :class:`listener.contracts.Source`."""

    Settings: ClassVar[type[BaseModel]] = SqsSettings

    def transport(self) -> SqsTransport:
        """Return a new transport to the queue."""
        return SqsTransport(self.settings)

    async def check(self) -> Sequence[Check]:
        """Check the queue, its policy, its dead-letter queue, and the notification rules of the buckets."""
        return await asyncio.to_thread(lambda: list(run_checks(self.name, self.settings, self._clock.now)))

    def setup(self) -> str:
        """Return the queue policy, the IAM policy, the bucket notifications, and the commands that set them."""
        return setup_text(self.settings.address, self.settings.buckets)
