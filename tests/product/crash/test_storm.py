"""Promises 1 and 4 from outside: SIGKILL at random instants loses nothing, and the books stay true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.product.crash.storm import storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
async def test_every_change_is_fresh_after_a_storm(tmp_path: Path, seed: int) -> None:
    """
    After a storm every key at the edge is what the origin has.

    Between any two daemons the ledger is not below what was accepted, and above it by the unknown
    units at most; in the end it is equal. ``make storm`` does the same with 200 kills.
    """
    report = await storm(tmp_path, kills=15, seed=seed, keys=60, once=False)
    print(report)
    assert report.good, report


async def test_unknown_outcomes_are_not_paid_for_twice(tmp_path: Path) -> None:
    """With a quota of two above what is needed, and no directories, every file turns fresh all the same."""
    report = await storm(tmp_path, kills=15, seed=3, keys=60, once=True)
    print(report)
    assert report.good, report
