"""Promises 1 and 4 through a queue, from outside: what the server saw deleted is in the state file, none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sources.mns.storm import storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


@pytest.mark.parametrize("keys", [200, 40])
async def test_a_storm_through_a_queue_loses_nothing(tmp_path: Path, keys: int) -> None:
    """
    No deletion before its commit, no message left, every object fresh, and the ledger is what was accepted.

    With a key a message each deletion is held against a row of its own; with fewer, changes overtake one another.
    """
    report = await storm(tmp_path, kills=5, seed=keys, messages=200, keys=keys)
    print(report)
    assert report.good, report
    assert report.received_again, "no message came twice: the daemon was never killed in between"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
async def test_a_long_storm_through_a_queue(tmp_path: Path, seed: int) -> None:
    """The same with a hundred kills."""
    report = await storm(tmp_path, kills=100, seed=seed, messages=5000, keys=5000 if seed else 200)
    print(report)
    assert report.good, report
