"""The suite that every target must pass, with the emulator behind this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from listener.emulator import CloudFrontEmulator, CloudFrontSettings
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    OutcomeUnknown,
    Throttled,
    WindowFull,
)
from listener.targets.cloudfront import CloudFront
from listener.testing import TargetConformance
from tests.targets.cloudfront.conftest import BASE, KEY, make_target

CREATE = ",action=CreateInvalidation"
pytestmark = pytest.mark.looptime(False)


class Cdn:
    """The emulator, as a service of the suite."""

    def __init__(self, emulator: CloudFrontEmulator, settings: dict[str, Any]) -> None:
        self._emulator = emulator
        self._settings = settings

    def make_target(self) -> CloudFront:
        return make_target(self._emulator.api_url, **self._settings)

    def refreshed(self) -> list[str]:
        return [f"{BASE}{record.path}".removesuffix("*") for record in self._emulator.tasks.all()]

    def fail(self, failure: str) -> None:
        self._emulator.faults.order(self._emulator.table.parse(failure), self._emulator.clock.now())


class TestCloudFront(TargetConformance):
    """With limits by rate."""

    settings: ClassVar[dict[str, Any]] = {}
    emulated: ClassVar[dict[str, Any]] = {"task_seconds": 0.1}
    secrets = (KEY.secret,)
    failures: ClassVar = {
        f"accept-then-reset{CREATE}": OutcomeUnknown,
        f"accept-then-timeout{CREATE}": OutcomeUnknown,
        f"reset{CREATE}": OutcomeUnknown,
        "throttle": Throttled,
        "busy": WindowFull,
        "error500": OutcomeUnknown,
        "error:ServiceUnavailable": OutcomeUnknown,
        "error:AccessDenied": Misconfigured,
        "error:NoSuchDistribution": Misconfigured,
        "error:InvalidClientTokenId": Misconfigured,
        "error:BatchTooLarge": BatchTooLarge,
        "error:InvalidArgument": BatchRejected,
        "error:InvalidationBatchAlreadyExists": BatchRejected,
        "malformed:section": BatchRejected,
        "clock-skew:1000": Misconfigured,
    }
    lost_answer = f"accept-then-reset:1{CREATE}"
    refused = "malformed:refused"

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Cdn]:
        options = CloudFrontSettings(origin=".", key=KEY, api_port=0, edge_port=0, **self.emulated)
        async with CloudFrontEmulator(options) as emulator:
            yield Cdn(emulator, self.settings)

    def make_unreachable_target(self) -> CloudFront:
        return make_target("http://127.0.0.1:1", **self.settings)


class TestCloudFrontInProgress(TestCloudFront):
    """With limits on what is in progress, and money to spend."""

    settings: ClassVar[dict[str, Any]] = {"limits": {"form": "in-progress"}, "monthly_dollars": 10}
    emulated: ClassVar[dict[str, Any]] = {"limits": "slots", "task_seconds": 0.0}
