"""Options that all queue sources share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from listener.formats import FORMATS
from listener.settings import Listed

__all__ = ["QueueSettings"]


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}")
    return name


class QueueSettings(BaseModel):
    """Options of a source that reads a queue."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    buckets: Annotated[tuple[str, ...], Listed] = ()
    """Buckets to accept events from; events of others are ignored and counted. Default: all. ``check`` and
    ``check --print-setup`` use these names too."""

    bucket_prefix: bool = False
    """Prefix each key with the bucket's name and a ``/``, so that ``prefix`` of a site can select the bucket."""

    format: Annotated[str, AfterValidator(_known_format)] = "auto"
    """Message format, if it cannot be detected: ``s3``, ``oss``, ``sns``, ``eventbridge``, ``minio``, …"""

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
