"""Options that all queue sources share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from listener.sources.events import EventSettings

__all__ = ["QueueSettings"]


class QueueSettings(EventSettings):
    """Options of a source that reads a queue."""

    pollers: Annotated[int, Field(ge=1, le=64)] = 4
    """Parallel receive requests while the queue is full; otherwise one."""

    wait_seconds: int = 10
    """Long-poll duration of one receive request."""

    max_held_messages: Annotated[int, Field(ge=10, le=100_000)] = 2_000
    """Most messages in flight: received and not yet committed."""

    delete_linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05
    """How long a deletion waits for others to fill a batch; full batches go at once."""

    figures_interval_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How often to read the number of waiting messages from the queue; 0: never."""
