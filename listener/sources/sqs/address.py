"""Region, account, name and endpoint from a queue's URL. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Address", "address_of"]

_PUBLIC: Final = re.compile(
    r"(?:sqs(?:-fips)?\.(?P<region>[a-z0-9-]+)|(?P<legacy>[a-z0-9-]+)\.queue|(?P<first>queue))"
    r"\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.com\.cn|c2s\.ic\.gov|sc2s\.sgov\.gov)"
)
_PRIVATE: Final = re.compile(r"[a-z0-9.-]+\.sqs\.(?P<region>[a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?")
_FIRST_REGION: Final = "us-east-1"
"""The region of ``queue.amazonaws.com``, and the default for emulators."""
_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b"}


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
