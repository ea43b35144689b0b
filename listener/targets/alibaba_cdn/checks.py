"""What ``cdn-listener check`` probes of an account, without changing anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.contracts import Check, CheckState
from listener.errors import TargetError
from listener.refresh import QuotaReading, RefreshKind
from listener.targets.alibaba_cdn.client import SignedClient
from listener.targets.alibaba_cdn.requests import Request, task_list_request, tasks_by_id_request
from listener.targets.alibaba_cdn.settings import Settings as AlibabaCdnSettings

__all__ = ["probe"]

NOTABLE_SKEW_SECONDS = 60


class Checked(Protocol):
    """The target, as far as it is checked."""

    name: str
    settings: AlibabaCdnSettings

    @property
    def client(self) -> SignedClient:
        """Signs and sends."""
        ...

    async def read_quota(self) -> Mapping[RefreshKind, QuotaReading]:
        """Return the live quota."""
        ...


async def probe(target: Checked) -> Sequence[Check]:
    """Return the probes in the order in which they stand on one another; without a key only the first."""
    key = await _tried(f"{target.name}: credentials", partial(_credentials, target))
    if key.state is CheckState.FAILED:
        return [key]
    quota = await _tried(f"{target.name}: quota", partial(_quota, target))
    reads = [
        await _tried(f"{target.name}: {request.action}", partial(_read, target, request))
        for request in _questions(target)
    ]
    return [key, quota, _clock(target), *reads]


async def _tried(subject: str, ask: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(subject, CheckState.OK, await ask())
    except TargetError as error:
        return Check(subject, CheckState.FAILED, str(error), error.hint)


async def _credentials(target: Checked) -> str:
    key = await target.client.credentials()
    return f"access key {key.access_key_id[:4]}… from {target.settings.credentials}"


async def _quota(target: Checked) -> str:
    quota = await target.read_quota()
    left = ", ".join(f"{kind.value} {reading.remaining} of {reading.limit}" for kind, reading in quota.items())
    return f"left today: {left}" if left else "the CDN reported no quota; using the configured one"


def _questions(target: Checked) -> Sequence[Request]:
    listed = task_list_request(page=1, page_size=1)
    return [listed] if target.settings.is_first_version else [listed, tasks_by_id_request(["1"])]


async def _read(target: Checked, request: Request) -> str:
    try:
        await target.client.read(request)
    except TargetError as error:
        if not error.code.startswith("InvalidTaskId"):
            raise
    return "permitted"


def _clock(target: Checked) -> Check:
    subject, skew = f"{target.name}: clock", target.client.clock_skew_seconds
    if skew is None:
        return Check(subject, CheckState.WARNING, "no response contained the CDN's time")
    direction = "ahead of" if skew >= 0 else "behind"
    message = f"{abs(skew):.0f} s {direction} the CDN's (at most {CLOCK_TOLERANCE_SECONDS} s)"
    if abs(skew) <= NOTABLE_SKEW_SECONDS:
        return Check(subject, CheckState.OK, message)
    state = CheckState.FAILED if abs(skew) > CLOCK_TOLERANCE_SECONDS else CheckState.WARNING
    return Check(subject, state, message, "synchronise the clock of this machine (NTP)")
