"""Promises 1 and 4 through a queue, from outside: SIGKILL at random instants, and what the queue saw deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sources.sqs.storm import queue_storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


async def test_what_the_queue_saw_deleted_was_in_the_state_file(tmp_path: Path, aws_keys: None) -> None:
    """
    No message is deleted before its commit, none is lost, poison is kept whole, and the quota is exact.

    At each deletion the state file is asked, while the daemon runs. Every file turns fresh with a quota of two
    above what is needed, although messages come twice and deletions are lost with the daemon.
    """
    report = await queue_storm(tmp_path, kills=5, seed=1, keys=50)
    print(report)
    assert report.good, report


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_same_for_long(tmp_path: Path, aws_keys: None, seed: int) -> None:
    """A hundred kills."""
    report = await queue_storm(tmp_path, kills=100, seed=seed, keys=500)
    print(report)
    assert report.good, report
