"""The suite that every target must pass, with the emulator behind this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from listener.emulator import CloudflareEmulator, CloudflareSettings
from listener.emulator.cloudflare import parse_zone
from listener.errors import BatchRejected, Misconfigured, OutcomeUnknown, Throttled, Unavailable, WindowFull
from listener.targets.cloudflare import Cloudflare
from listener.testing import TargetConformance
from tests.targets.cloudflare.conftest import TOKEN, make_target

PURGES = ",action=purge_cache+invalidate_cache"
pytestmark = pytest.mark.looptime(False)


class Cdn:
    """The emulator, as a service of the suite."""

    def __init__(self, emulator: CloudflareEmulator, settings: dict[str, Any]) -> None:
        self._emulator = emulator
        self._settings = settings

    def make_target(self) -> Cloudflare:
        return make_target(self._emulator.api_url, **self._settings)

    def refreshed(self) -> list[str]:
        found = []
        for record in self._emulator.tasks.all():
            by: str = record.by  # type: ignore[attr-defined]
            found.append({"files": "", "prefixes": "https://", "tags": "https://www.example.com"}[by] + record.path)
        return found

    def fail(self, failure: str) -> None:
        self._emulator.faults.order(self._emulator.table.parse(failure), self._emulator.clock.now())


class TestCloudflare(TargetConformance):
    """By prefix."""

    settings: ClassVar[dict[str, Any]] = {}
    secrets = (TOKEN,)
    lost_answer = f"accept-then-reset:1{PURGES}"
    refused = "malformed:refused"
    failures: ClassVar = {
        f"accept-then-reset{PURGES}": OutcomeUnknown,
        f"accept-then-timeout{PURGES}": OutcomeUnknown,
        f"reset{PURGES}": OutcomeUnknown,
        "throttle": Throttled,
        f"throttle:9:7{PURGES}": WindowFull,
        "error500": Unavailable,
        "error:1000": Misconfigured,
        "error:10000": Misconfigured,
        "error:7003": Misconfigured,
        f"error:1017{PURGES}": BatchRejected,
        "malformed:section": BatchRejected,
    }

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Cdn]:
        zones = (parse_zone("example.com"),)
        options = CloudflareSettings(origin=".", token=TOKEN, zones=zones, api_port=0, edge_port=0)
        async with CloudflareEmulator(options) as emulator:
            yield Cdn(emulator, self.settings)

    def make_unreachable_target(self) -> Cloudflare:
        return make_target("http://127.0.0.1:1", **self.settings)


class TestSoftCloudflare(TestCloudflare):
    """With soft purges of a configured zone, directories by tag."""

    settings: ClassVar[dict[str, Any]] = {
        "soft": True,
        "subtree": "tag",
        "zones": {"example.com": parse_zone("example.com").id},
    }
