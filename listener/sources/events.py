"""What every source of object stores' events has in common: its options, and how a change becomes the source's."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from listener.change import Change
from listener.formats import FORMATS
from listener.settings import Listed

__all__ = ["EventSettings"]


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}")
    return name


class EventSettings(BaseModel):
    """Options of a source that decodes the events of buckets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    buckets: Annotated[tuple[str, ...], Listed] = ()
    """Buckets to accept events from; events of others are ignored and counted. Default: all. ``check`` and
    ``check --print-setup`` use these names too."""

    bucket_prefix: bool = False
    """Prefix each key with the bucket's name and a ``/``, so that ``prefix`` of a site can select the bucket."""

    format: Annotated[str, AfterValidator(_known_format)] = "auto"
    """Message format, if it cannot be detected: ``s3``, ``oss``, ``sns``, ``eventbridge``, ``minio``, ``keys``, …"""

    def own(self, source: str, change: Change) -> Change:
        """Return a decoded change, whose root is a bucket, as one of this source, whose only root has its name."""
        bucket, key = change[:2]
        return Change(source, f"{bucket}/{key}" if self.bucket_prefix and bucket else key, *change[2:])
