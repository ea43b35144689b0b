"""Targets that speak to a recording server."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.targets.alibaba_cdn.recording_api import Api, StandingClock


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A recording server that accepts everything until it is instructed otherwise."""
    server = Api()
    await server.start()
    yield server
    await server.stop()


MakeTarget = Callable[..., AlibabaCdn]


@pytest.fixture
async def make_target(api: Api) -> AsyncIterator[MakeTarget]:
    """Make targets that speak to the recording server, and close them afterwards."""
    made: list[AlibabaCdn] = []

    def build(
        *,
        make: type[AlibabaCdn] = AlibabaCdn,
        environment: dict[str, str] | None = None,
        clock: Any = None,
        **settings: Any,
    ) -> AlibabaCdn:
        values = {"endpoint": f"http://{api.address}", **settings}
        made.append(
            make(
                f"cdn-{next(count)}",
                make.Settings.model_validate(values),  # type: ignore[arg-type]
                clock=clock or StandingClock(),
                randomness=random.Random(7),
                environment=KEYS if environment is None else environment,
            )
        )
        return made[-1]

    count = itertools.count()
    yield build
    for target in made:
        await target.close()


@pytest.fixture
def target(make_target: MakeTarget) -> AlibabaCdn:
    """A target with default settings."""
    return make_target()


@pytest.fixture
def elapsed() -> Callable[[Awaitable[Any]], Awaitable[tuple[Any, float]]]:
    """Await something, and return how many (virtual) seconds it took."""

    async def run(awaited: Awaitable[Any]) -> tuple[Any, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            result: Any = await awaited
        except Exception as error:  # noqa: BLE001 - handed back for the test to judge
            result = error
        return result, loop.time() - start

    return run
