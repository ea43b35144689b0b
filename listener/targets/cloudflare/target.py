"""The contract of a target, for Cloudflare."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import BaseModel

from listener.contracts import (
    Check,
    CheckState,
    Credential,
    Eviction,
    KindLimits,
    Pace,
    Questions,
    RateLeft,
    SettingQuestion,
    TargetBase,
    UnknownOutcome,
)
from listener.egress import proxy_for
from listener.errors import BatchRejected, BatchTooLarge, Misconfigured, NotSent, TargetError, WindowFull
from listener.rates import Bucket
from listener.refresh import Priority, Receipt, RefreshKind
from listener.targets.cloudflare.answers import Request, Sent
from listener.targets.cloudflare.plans import MOST_OPERATIONS
from listener.targets.cloudflare.purges import is_root, purge_of
from listener.targets.cloudflare.settings import Settings as CloudflareSettings
from listener.targets.cloudflare.settings import read_token
from listener.targets.cloudflare.zones import Zones, listed
from listener.targets.turns import Turns
from listener.urls import host_of

if TYPE_CHECKING:
    from listener.targets.cloudflare.client import Client

__all__ = ["Cloudflare"]

API_CALLS, API_SECONDS = 1_200, 300.0
"""Calls of a user in five minutes, for all of the API; more are blocked for five minutes. Purges by URL do not count
(as of 2022)."""
TINY: Final = 1e-9
MOST_CHECKED: Final = 5
"""Zones of which the permission is tried."""


class Cloudflare(TargetBase):
    """Zones of one plan in a Cloudflare account."""

    Settings: ClassVar[type[BaseModel]] = CloudflareSettings
    questions: ClassVar[Questions] = Questions(
        settings=(
            SettingQuestion(key="plan", text="Plan of the zone: free, pro, business or enterprise", default="free"),
        ),
        credentials=(
            Credential(
                variable="CLOUDFLARE_API_TOKEN",
                text="API token with the permissions Cache Purge and Zone Read",
                file="cloudflare_api_token",
            ),
        ),
    )
    unknown_outcome = UnknownOutcome.REPEAT
    pace = Pace(lanes=4)

    def __init__(
        self, name: str, settings: CloudflareSettings, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Keep the settings; read no token and open no connection before the first call."""
        super().__init__(name, settings)
        self.settings: CloudflareSettings = settings
        self.limits = _limits(settings)
        self.zones = Zones(settings.zones, setting=f"targets.{name}.zones")
        self._environment = os.environ if environment is None else environment
        plan = settings.allowed
        self._files = Bucket(plan.files_per_second, plan.files_per_second)
        self._requests = Bucket(plan.bucket_requests, plan.requests_per_second)
        self._calls = Bucket(API_CALLS, API_CALLS / API_SECONDS)
        self._refill_seconds = {True: 1.0, False: 1 / plan.requests_per_second}
        self._rate_name = (
            f"{plan.bucket_requests} requests by prefix, host or tag, then one in {self._refill_seconds[False]:g} s"
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that sends, once it does: plans are made in other threads."""
        self._turns: dict[bool, Turns] = {}

    @cached_property
    def client(self) -> Client:
        """What makes the calls."""
        # aiohttp is slow to import, and commands that only read the state file make no call.
        from listener.targets.cloudflare.client import Client  # noqa: PLC0415

        return Client(self.settings, self._environment)

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` for no usable token, or a proxy that is none."""
        proxy_for(self.settings.endpoint)
        await asyncio.to_thread(read_token, self.settings, self._environment)

    def place(self, url: str) -> str:
        """Return the zone, as far as it is known, else the host; whole hosts are of a place of their own."""
        host = host_of(url)
        zone = self.zones.known(host) or host
        return f"{zone} hosts" if is_root(url) and self.settings.subtree == "prefix" else zone

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait until a request of these URLs keeps the limits of the plan."""
        self._loop = asyncio.get_running_loop()
        is_files = kind is RefreshKind.FILE
        amounts = [(self._files, len(urls))] if is_files else [(self._requests, 1), (self._calls, 1)]
        await self._turns.setdefault(is_files, Turns()).take(amounts, priority)

    def rates(self) -> Sequence[RateLeft]:
        """Return how many prefixes, hosts or tags full requests may have now. URLs of files refill within a second."""
        kinds = frozenset(self.limits.keys() - {RefreshKind.FILE})
        if not kinds or self._loop is None:
            return ()
        now, bucket = self._loop.time(), self._requests
        requests = max(0, math.floor(bucket.left(now) + TINY))
        return [RateLeft(self._rate_name, kinds, requests * MOST_OPERATIONS, bucket.wait_seconds(1, now))]

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:  # noqa: ARG002
        """
        Purge one batch; with ``soft`` and without ``force``, mark it as stale.

        Raises a :class:`~listener.errors.TargetError` by remedy. The API takes no ``token``: a purge that is repeated
        does no harm.
        """
        is_files = kind is RefreshKind.FILE
        bucket, amount = (self._files, len(urls)) if is_files else (self._requests, 1)
        try:
            zone = await self._zone_of(kind, urls)
            purge = purge_of(self.settings, kind, urls)
            action = "invalidate_cache" if self.settings.soft and not force else "purge_cache"
            words = f"{action} of {len(purge.items)} {purge.by} of zone {zone}"
            sent = Sent(words, purge.items, zone, is_purge=True, refill_seconds=self._refill_seconds[is_files])
            await self.client.call(Request("POST", f"/zones/{zone}/{action}", sent, body=purge.body))
        except WindowFull:
            bucket.drain(asyncio.get_running_loop().time())
            raise
        except NotSent as error:
            bucket.give_back(amount)
            if isinstance(error, Misconfigured):
                self.zones.forget()
            raise
        return Receipt(settles_after_seconds=self.settings.settles_after_seconds)

    async def _zone_of(self, kind: RefreshKind, urls: Sequence[str]) -> str:
        limits = self.limits[kind]
        if len(urls) > limits.batch_urls:
            raise BatchTooLarge(f"{len(urls)} URLs are too many for one request")
        by_host: dict[str, list[str]] = {}
        for url in urls:
            by_host.setdefault(host_of(url), []).append(url)
        zones = {host: await self.zones.find(self.client, host, theirs) for host, theirs in by_host.items()}
        first = next(iter(zones.values()))
        if others := [url for host, zone in zones.items() if zone != first for url in by_host[host]]:
            raise BatchTooLarge(f"{len(others)} URLs are of another zone than the rest")
        return first

    async def check(self) -> Sequence[Check]:
        """Look for the token, its zones, and whether it may purge them; nothing is purged."""
        subject = f"targets.{self.name}"
        if self.settings.zones:
            ids = {zone: f"zone {domain}" for domain, zone in self.settings.zones.items()}
        else:
            try:
                found = await listed(self.client)
            except TargetError as error:
                return [Check(f"{subject}: zones", CheckState.FAILED, str(error), error.hint)]
            if not found:
                hint = f"give it the permissions Zone Read and Cache Purge, or set {subject}.zones"
                return [Check(f"{subject}: zones", CheckState.FAILED, "the token sees no zone", hint)]
            ids = {zone.id: f"zone {zone.name}" for zone in found[:MOST_CHECKED]}
        return [await _tried(f"{subject}: {words}", partial(self._try, zone)) for zone, words in ids.items()]

    async def check_urls(self, urls: Sequence[str]) -> Sequence[Check]:
        """Look for the zone of each host."""
        hosts = dict.fromkeys(map(host_of, urls))
        subject = f"targets.{self.name}"
        return [await _tried(f"{subject}: {host}", partial(self._zone_words, host)) for host in hosts]

    async def _zone_words(self, host: str) -> str:
        return f"in zone {await self.zones.find(self.client, host, ())}"

    async def _try(self, zone: str) -> str:
        """Make a purge of nothing: it is refused as empty where it is permitted."""
        sent = Sent(f"an empty purge of zone {zone}", zone=zone, is_purge=True)
        with suppress(BatchRejected, BatchTooLarge):
            await self.client.call(Request("POST", f"/zones/{zone}/purge_cache", sent, body={}))
        return "the token may purge it"

    async def close(self) -> None:
        """Release connections; safe to call twice."""
        if "client" in vars(self):
            await self.client.close()


def _limits(settings: CloudflareSettings) -> dict[RefreshKind, KindLimits]:
    eviction = Eviction.EITHER if settings.soft else Eviction.HARD
    plan = settings.allowed
    limits = {RefreshKind.FILE: KindLimits(min(plan.batch_files, plan.files_per_second), eviction=eviction)}
    if settings.subtree != "none":
        limits[RefreshKind.DIRECTORY] = KindLimits(MOST_OPERATIONS, eviction=eviction)
    if settings.subtree == "prefix":
        limits[RefreshKind.IGNORE_PARAMS] = KindLimits(MOST_OPERATIONS, eviction=eviction)
    return limits


async def _tried(subject: str, ask: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(subject, CheckState.OK, await ask())
    except TargetError as error:
        return Check(subject, CheckState.FAILED, str(error), error.hint or "try again in a moment")
