"""SIGKILL at random instants loses nothing before CloudFront, and pays no path twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.product.crash.cloudfront_storm import is_good, storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


async def test_every_change_is_fresh_and_paid_once_after_a_storm(tmp_path: Path) -> None:
    """After a storm every key at the edge is what the origin has; the month's ledger is what is charged."""
    report = await storm(tmp_path, kills=10, seed=1, keys=60)
    print(report)
    assert is_good(report), report
