"""The promises of a fleet from outside: whoever leads is taken away, and so is the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.product.fleet.servers import servers_of
from tests.product.fleet.storm import USUAL, storm
from tests.product.fleet.verdict import Freeze, Leads, Loss, Request, older_requests, takeovers, unordered_terms

pytestmark = pytest.mark.looptime(False)
LEADS = [Leads(1.0, "a", 1), Leads(5.0, "b", 2), Leads(9.0, "a", 3)]


@pytest.mark.slow
async def test_three_instances_survive_a_storm(initial_cluster: tuple[Path, Path], tmp_path: Path) -> None:
    """
    At rest nothing is stale, and the ledger has what the CDN accepted.

    Each lost leader has a successor in time, and no request of an older term follows one of a newer term.
    ``make storm`` does the same with 300 events, also through PgBouncer, and with standbys that are promoted.
    """
    with servers_of(initial_cluster) as servers:
        report = await storm(tmp_path, servers, events=12, seed=3, kinds=USUAL, keys=40)
    print(report)
    assert not report.problems, report
    assert report.takeover_seconds
    assert report.accepted


def test_a_request_is_of_the_term_that_its_instance_began_last() -> None:
    """One that follows a request of a newer term is found, unless its sender was frozen and has just gone on."""
    late = [Request(2.0, "a"), Request(6.0, "b"), Request(7.0, "a")]
    found, frozen = older_requests(late, LEADS, [], slack_seconds=1.0)
    assert (len(found), frozen) == (1, 0)
    assert "a term 1 at 7.000, after one of term 2" in found[0]
    assert older_requests(late, LEADS, [Freeze("a", 2.5, 6.5)], slack_seconds=1.0) == ([], 1)
    assert older_requests(late, LEADS, [Freeze("a", 2.5, 5.5)], slack_seconds=1.0)[1] == 0
    assert older_requests(late, LEADS, [Freeze("b", 2.5, 6.5)], slack_seconds=1.0)[1] == 0
    assert older_requests([*late[:2], Request(9.5, "a")], LEADS, [], slack_seconds=1.0) == ([], 0)


def test_a_takeover_lasts_until_a_newer_term() -> None:
    """A term that had begun before does not count, and one that never comes is reported."""
    first, last = Loss(2.0, "kill", "a", 1), Loss(10.0, "cut", "a", 3)
    assert takeovers([first, last], LEADS) == {first: 3.0, last: None}
    early = Loss(first.at + 2.0, "kill", "web-1", first.term + 1)
    assert takeovers([first, early], LEADS)[first] == 2.0


def test_terms_begin_once_and_in_order() -> None:
    """Two instances that begin the same term are found, and so is a term after a newer one."""
    assert unordered_terms(LEADS) == []
    assert len(unordered_terms([*LEADS, Leads(10.0, "b", 3)])) == 1
    assert len(unordered_terms([*LEADS, Leads(6.0, "a", 1)])) == 1
