"""Options of a source of type ``mns``; the access key is not configured here (see ``listener.alibaba.access``)."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from listener.alibaba import KeySettings, Origin
from listener.sources.queue.settings import QueueSettings

__all__ = ["MnsSettings", "QueueAddress"]

_HOST = re.compile(r"(?P<account>\d+)\.mns\.(?P<region>[a-z0-9-]+?)(?:-internal|-vpc)?\.aliyuncs\.com")


class QueueAddress(NamedTuple):
    """Region, account and name of a queue; unknown parts appear as ``<…>``."""

    region: str
    account: str
    queue: str

    @property
    def resource(self) -> str:
        """The queue's name in policies."""
        return f"acs:mns:{self.region}:{self.account}:/queues/{self.queue}"


class MnsSettings(QueueSettings, KeySettings):
    """``[sources.NAME]`` with ``type = "mns"``: OSS events in a queue of MNS, now called SMQ."""

    type: Literal["mns"] = "mns"
    """Selects this source."""

    endpoint: Origin
    """``https://ACCOUNT.mns.REGION.aliyuncs.com``; inside a VPC with ``REGION-internal``. Plain http is for tests."""

    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$")]
    """The queue's name."""

    wait_seconds: Annotated[int, Field(ge=1, le=30)] = 30
    """Long-poll duration of one receive request; a stop does not wait for it."""

    max_held_messages: Annotated[int, Field(ge=16, le=100_000)] = 2_000
    """Most messages in flight: received and not yet committed."""

    connect_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    """Timeout of a connection, including name resolution and TLS."""

    answer_seconds: Annotated[float, Field(gt=0, le=300)] = 30.0
    """Timeout of a call, in addition to its long poll."""

    @property
    def address(self) -> QueueAddress:
        """The queue, as far as the endpoint's host name contains it."""
        found = _HOST.fullmatch(self.endpoint.partition("://")[2])
        region, account = (found["region"], found["account"]) if found else ("<REGION>", "<ACCOUNT>")
        return QueueAddress(region, account, self.queue)
