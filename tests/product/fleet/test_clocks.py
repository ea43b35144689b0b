"""Hosts of a fleet whose clocks are minutes apart: due times, and what `wait` covers, are by the database's clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.postgres.cluster import Cluster
from tests.product.fleet.test_instances import change, fleet, fresh
from tests.stand import a_stand, fetch, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(180)]
APART_SECONDS = 120
FRESH_SECONDS = 40.0


WRONG = """
import os, time
right = time.time
time.time = lambda: right() + float(os.environ["CLOCK_AHEAD"])
"""


@pytest.fixture
def clocks(tmp_path: Path) -> dict[str, dict[str, str]]:
    """The environments of two hosts, whose wall clocks are behind the database's and ahead of it."""
    (tmp_path / "sitecustomize.py").write_text(WRONG)
    aheads = {"web-1": -APART_SECONDS, "web-2": APART_SECONDS}
    return {name: {"PYTHONPATH": str(tmp_path), "CLOCK_AHEAD": str(ahead)} for name, ahead in aheads.items()}


def test_hosts_with_wrong_clocks_behave_as_with_right_ones(
    tmp_path: Path, postgres: Cluster, clocks: dict[str, dict[str, str]]
) -> None:
    """
    What the host ahead records is due for the leader, which is behind, as soon as its own changes are.

    And on the host behind `wait` does not say that what has just changed is fresh.
    """
    with (
        a_stand(tmp_path / "stand") as stand,
        postgres.database() as database,
        fleet(stand, postgres.url(database), "web-1", "web-2", environments=clocks) as (behind, ahead),
    ):
        keys = ["web-1/a.html", "web-2/a.html"]
        change(stand, keys, "old")
        until(lambda: fresh(stand, keys, "old"), seconds=FRESH_SECONDS, what="the first version is fresh")
        change(stand, keys, "new")
        until(lambda: fresh(stand, keys, "new"), seconds=FRESH_SECONDS, what="the second version is fresh")
        until(lambda: behind.status()["pending"] + behind.status()["in_flight"] == 0, what="nothing is left to do")
        behind.text("pause")
        change(stand, keys[:1], "newer")
        until(lambda: behind.status()["pending"], what="the change is recorded")
        out, _ = (waiting := behind.command("wait", "--json", "--timeout", "2s", "--grace", "1s")).communicate()
        assert waiting.returncode == 1, out
        assert not json.loads(out)["fresh"]
        for instance, words in ((behind, "120 s behind the database's"), (ahead, "120 s ahead of the database's")):
            assert words in fetch(f"http://127.0.0.1:{instance.admin_port}/api/status")[1], "the operator sees it"
