"""What the URL of a queue tells: region, account, name, and whom to call. Pure."""

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
"""The region of ``queue.amazonaws.com``, and the one that stand-ins are given when nobody names another."""
_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b"}


class Address(NamedTuple):
    """One queue."""

    url: str
    region: str
    account: str
    """Twelve digits; empty where the URL does not tell."""
    name: str
    endpoint: str
    """The URL to call: scheme, host and port."""
    is_aws: bool
    """Whether that is a host of AWS, on which only SQS answers; a stand-in may answer for other services too."""

    @property
    def arn(self) -> str:
        """The queue's resource name; what the URL does not tell stands in ``<…>``."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account or '<ACCOUNT>'}:{self.name}"

    @property
    def partition(self) -> str:
        """The part of AWS that the region belongs to."""
        found = (part for head, part in _PARTITIONS.items() if self.region.startswith(head))
        return next(found, "aws")

    @property
    def is_fifo(self) -> bool:
        """Whether it is a queue that keeps order."""
        return self.name.endswith(".fifo")


def address_of(queue_url: str, *, region: str = "", endpoint_url: str = "") -> Address:
    """
    Return the queue of this URL; a region and an endpoint that are given win over what the URL tells.

    Raises:
        ValueError: it is no URL of a queue.
    """
    try:
        parts = urlsplit(queue_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    segments = [segment for segment in parts.path.split("/") if segment]
    if parts.scheme not in ("http", "https") or not host or not segments:
        raise ValueError("must be a URL such as https://sqs.eu-central-1.amazonaws.com/111122223333/events")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold scheme, host and path only")
    public, private = _PUBLIC.fullmatch(host), _PRIVATE.fullmatch(host)
    told = _region_in(public or private)
    account = next((segment for segment in segments[:-1] if re.fullmatch(r"\d{12}", segment)), "")
    # The host that stands there is called: it may be the only one that can be reached (dual-stack, FIPS, private).
    endpoint = endpoint_url or f"{parts.scheme}://{parts.netloc}"
    called = urlsplit(endpoint).hostname or ""
    is_aws = bool(_PUBLIC.fullmatch(called) or _PRIVATE.fullmatch(called))
    return Address(queue_url, region or told, account, segments[-1], endpoint, is_aws)


def _region_in(match: re.Match[str] | None) -> str:
    groups = match.groupdict() if match else {}
    return groups.get("region") or groups.get("legacy") or _FIRST_REGION
