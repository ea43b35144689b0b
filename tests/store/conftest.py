"""The store on a real file, with a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from listener.store import open_store
from tests.store.steps import Bench, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands until it is moved."""
    return FakeClock()


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    """An owned store on a file of its own."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", clock=clock, owner=True) as store:
        await store.recover()
        yield Bench(store, clock)
