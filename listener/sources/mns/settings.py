"""What can be set for a source of type ``mns``; the access key is no setting (see ``listener.alibaba.keys``)."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from listener.alibaba import KeySettings, Origin
from listener.formats import FORMATS

__all__ = ["Address", "MnsSettings"]

_HOST = re.compile(r"(?P<account>\d+)\.mns\.(?P<region>[a-z0-9-]+?)(?:-internal|-vpc)?\.aliyuncs\.com")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"must be one of: {', '.join(FORMATS)}")
    return name


class Address(NamedTuple):
    """Where a queue is; what its endpoint does not tell stands in ``<…>``."""

    region: str
    account: str
    queue: str

    @property
    def resource(self) -> str:
        """The queue's name in policies."""
        return f"acs:mns:{self.region}:{self.account}:/queues/{self.queue}"


class MnsSettings(KeySettings):
    """``[sources.NAME]`` with ``type = "mns"``: events of OSS by a queue of MNS, now called SMQ."""

    type: Literal["mns"] = "mns"
    """Selects this source."""

    endpoint: Origin
    """Where the queue is: ``https://ACCOUNT.mns.REGION.aliyuncs.com``; inside a VPC with ``REGION-internal``. Plain
    http is for tests."""

    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$")]
    """Its name."""

    buckets: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Buckets whose events count; others are ignored, and counted. By default any, since a queue mostly has one.
    Also what ``check --print-setup`` prints a rule for."""

    bucket_prefix: bool = False
    """Put the bucket's name and a ``/`` before each key, so that sites tell several buckets apart by ``prefix``."""

    format: Annotated[str, AfterValidator(_format)] = "auto"
    """The form of the messages, where it cannot be told by looking at them. Base64 around it is always told."""

    wait_seconds: Annotated[int, Field(ge=1, le=30)] = 30
    """How long one request waits for messages; a stop does not wait for it."""

    pollers: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests for messages at a time while the queue is full; one otherwise."""

    max_held_messages: Annotated[int, Field(ge=16, le=100_000)] = 2_000
    """Messages received and not yet durable: with so many, no more are asked for."""

    figures_interval_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How often the queue is asked how many messages wait in it; 0: never."""

    connect_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    """For a connection, its name look-up and TLS included."""

    answer_seconds: Annotated[float, Field(gt=0, le=300)] = 30.0
    """For a whole call, beside what it waits for messages."""

    @property
    def address(self) -> Address:
        """Where the queue is, as far as the endpoint's name tells."""
        found = _HOST.fullmatch(self.endpoint.partition("://")[2])
        region, account = (found["region"], found["account"]) if found else ("<REGION>", "<ACCOUNT>")
        return Address(region, account, self.queue)
