"""Three daemons on one PostgreSQL, from outside: whatever becomes of the leader, all turns fresh and is booked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres.fixtures import MakeCluster
from tests.product.fleet.storm import storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow, pytest.mark.timeout(400)]


async def test_a_storm_over_a_fleet(tmp_path: Path, make_cluster: MakeCluster) -> None:
    """In the end every key is fresh, the ledger is what the CDN accepted, and take-overs were within lease + 2 s."""
    report = await storm(tmp_path, make_cluster(durable=True), events=8, seed=1)
    print(report)
    assert report.good, report
