"""Options of a source of type ``sqs``; keys come from AWS's own chain and are never configured here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from listener.sources.queue.settings import QueueSettings
from listener.sources.sqs.address import Address, address_of

__all__ = ["SqsSettings"]

_SECRETS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})


class SqsSettings(QueueSettings):
    """``[sources.NAME]`` with ``type = "sqs"``: S3 events in a queue, sent directly, through SNS or EventBridge."""

    type: Literal["sqs"] = "sqs"
    """Selects this source."""

    queue_url: str
    """The queue: ``https://sqs.REGION.amazonaws.com/ACCOUNT/NAME``. S3 cannot send to a FIFO
    queue."""

    region: str = ""
    """The queue's region. Default: the one in its URL."""

    endpoint_url: str = ""
    """Endpoint to call instead of the host of ``queue_url``: for emulators and private endpoints."""

    profile: str = ""
    """Profile of AWS's own configuration files whose key or role is used. Default: AWS's chain (environment, files,
    web identity, container, instance). Keys are never configured here."""

    wait_seconds: Annotated[int, Field(ge=1, le=20)] = 10
    """Long-poll duration of one receive request, and so the longest time that a stop takes."""

    visibility_seconds: Annotated[int, Field(ge=10, le=43_200)] = 60
    """How long a received message is hidden from other readers. Normally it is committed and deleted within
    milliseconds; where that takes longer (a full disk), the time is extended while this process lives."""

    @model_validator(mode="before")
    @classmethod
    def _explain_rejected(cls, table: Any) -> Any:
        if isinstance(table, dict) and (found := _SECRETS.intersection(table)):
            names = ", ".join(name.upper() for name in sorted(found))
            raise ValueError(f"keys are not configured in this file: set {names} in the environment instead")
        if isinstance(table, dict) and "transport" in table:
            raise ValueError("transport was removed, boto3 makes all calls: delete this line")
        return table

    @model_validator(mode="after")
    def _is_a_queue(self) -> Self:
        try:
            self.address  # noqa: B018 - raises for what is no queue
        except ValueError as error:
            raise ValueError(f"queue_url {error}") from None
        return self

    @property
    def address(self) -> Address:
        """The queue."""
        return address_of(self.queue_url, region=self.region, endpoint_url=self.endpoint_url)
