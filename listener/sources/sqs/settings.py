"""
Options of a source of type ``sqs``, and what the URL of its queue contains.

Keys come from AWS's own chain and are never configured here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from listener.sources.queue.settings import QueueSettings

__all__ = ["Address", "SqsSettings", "address_of"]

_PUBLIC: Final = re.compile(
    r"(?:sqs(?:-fips)?\.(?P<region>[a-z0-9-]+)|(?P<legacy>[a-z0-9-]+)\.queue|(?P<first>queue))"
    r"\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.com\.cn|c2s\.ic\.gov|sc2s\.sgov\.gov)"
)
_PRIVATE: Final = re.compile(r"[a-z0-9.-]+\.sqs\.(?P<region>[a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?")
_FIRST_REGION: Final = "us-east-1"
"""The region of ``queue.amazonaws.com``, and the default for emulators."""
_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b"}

_SECRETS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})


class Address(NamedTuple):
    """One queue."""

    url: str
    region: str
    account: str
    """Twelve digits; empty where the URL has none."""
    name: str
    endpoint: str
    """The URL to call: scheme, host and port."""
    is_aws: bool
    """Whether the endpoint is a host of AWS, which serves SQS only; an emulator may serve other services too."""

    @property
    def arn(self) -> str:
        """The queue's resource name; unknown parts appear as ``<…>``."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account or '<ACCOUNT>'}:{self.name}"

    @property
    def partition(self) -> str:
        """The part of AWS that the region belongs to."""
        found = (part for head, part in _PARTITIONS.items() if self.region.startswith(head))
        return next(found, "aws")

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.name.endswith(".fifo")


def address_of(queue_url: str, *, region: str = "", endpoint_url: str = "") -> Address:
    """
    Return the queue of this URL; a given region or endpoint takes precedence over the URL.

    Raises:
        ValueError: it is not the URL of a queue.
    """
    try:
        parts = urlsplit(queue_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    segments = [segment for segment in parts.path.split("/") if segment]
    if parts.scheme not in ("http", "https") or not host or not segments:
        raise ValueError("must be a URL such as https://sqs.eu-central-1.amazonaws.com/111122223333/events")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have scheme, host and path only")
    public, private = _PUBLIC.fullmatch(host), _PRIVATE.fullmatch(host)
    account = next((segment for segment in segments[:-1] if re.fullmatch(r"\d{12}", segment)), "")
    # Call the host in the URL: it may be the only one that can be reached (dual-stack, FIPS, private).
    endpoint = endpoint_url or f"{parts.scheme}://{parts.netloc}"
    called = urlsplit(endpoint).hostname or ""
    is_aws = bool(_PUBLIC.fullmatch(called) or _PRIVATE.fullmatch(called))
    return Address(queue_url, region or _region_in(public or private), account, segments[-1], endpoint, is_aws)


def _region_in(match: re.Match[str] | None) -> str:
    groups = match.groupdict() if match else {}
    return groups.get("region") or groups.get("legacy") or _FIRST_REGION


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
