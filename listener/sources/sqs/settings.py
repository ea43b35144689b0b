"""What can be set for a source of type ``sqs``; keys come from AWS's own chain and never stand here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from listener.formats import FORMATS
from listener.sources.sqs.address import Address, address_of

__all__ = ["SqsSettings"]

_SECRETS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}")
    return name


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class SqsSettings(BaseModel):
    """``[sources.NAME]`` with ``type = "sqs"``: events of S3 by a queue, sent raw, through SNS or EventBridge."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    type: Literal["sqs"] = "sqs"
    """Selects this source."""

    queue_url: str
    """The queue that the events come by: ``https://sqs.REGION.amazonaws.com/ACCOUNT/NAME``. A standard queue:
    S3 sends to no other."""

    region: str = ""
    """The queue's region; by default the one that its URL names."""

    endpoint_url: str = ""
    """Whom to call instead of AWS, for stand-ins and private endpoints; by default the host of ``queue_url``."""

    profile: str = ""
    """Profile of AWS's own configuration files whose key or role is used. By default AWS's chain: environment,
    files, web identity, container, instance. Keys never stand in this file."""

    buckets: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Buckets whose events count; others are ignored, and counted. By default any, since a queue mostly has one.
    Also what ``check`` looks at, and ``check --print-setup`` prints rules for."""

    bucket_prefix: bool = False
    """Put the bucket's name and a ``/`` before each key, so that sites tell several buckets apart by ``prefix``."""

    format: Annotated[str, AfterValidator(_known_format)] = "auto"
    """The form of the messages, where looking at them does not tell: ``s3``, ``sns``, ``eventbridge``, ``minio``, …"""

    transport: Literal["boto3", "aiohttp"] = "boto3"
    """Who makes the calls. ``aiohttp``: the same signature without boto3's client, for a busy queue; it also ends
    a long poll at once when the process stops."""

    pollers: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests for messages at a time while the queue is full; one otherwise."""

    wait_seconds: Annotated[int, Field(ge=1, le=20)] = 10
    """How long one request waits for messages. A stop waits so long at most, with boto3."""

    visibility_seconds: Annotated[int, Field(ge=10, le=43_200)] = 60
    """How long a message that was received stays hidden from other readers. It is committed and deleted within
    milliseconds; where that takes longer (a full disk), the time is extended while this process lives."""

    max_held_messages: Annotated[int, Field(ge=10, le=100_000)] = 2_000
    """Messages received and not yet durable: with so many, no more are asked for. A standard queue lets 120,000
    be received at once by all its readers together."""

    delete_linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05
    """How long a deletion waits for others to make one request of ten; a full one goes at once."""

    figures_interval_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How often the queue is asked how many messages wait in it; 0: never."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, table: Any) -> Any:
        if isinstance(table, dict) and (found := _SECRETS.intersection(table)):
            names = ", ".join(name.upper() for name in sorted(found))
            raise ValueError(f"a key never stands in a configuration: set {names} in the environment instead")
        return table

    @model_validator(mode="after")
    def _is_a_queue(self) -> Self:
        try:
            self.address  # noqa: B018 - refuses what is no queue
        except ValueError as error:
            raise ValueError(f"queue_url {error}") from None
        return self

    @property
    def address(self) -> Address:
        """The queue."""
        return address_of(self.queue_url, region=self.region, endpoint_url=self.endpoint_url)
