"""The figures of the comparison for CloudFront are what its log says, and no month exceeds its paths or its budget."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.cloudfront import POLICIES, run
from bench.planning.paths import FREE_PATHS, PATH_DOLLARS, Paths
from bench.planning.replay import replay
from bench.planning.scoring import score_log
from listener.allowances import Month
from tests.planner.test_day import some_weeks


@pytest.mark.parametrize("policy", [*POLICIES])
@pytest.mark.parametrize("dollars", [0.0, 1.0, 50.0])
def test_the_figures_follow_from_the_log(policy: str, dollars: float) -> None:
    """Whatever the policy, the score, the paths and the dollars of each month can be worked out again from the log."""
    windows, world = some_weeks(seed=3), Paths(dollars)
    figures = replay(windows, world, POLICIES[policy]())
    log = world.log or []
    collateral, _, late = score_log(windows, log)
    assert (figures["collateral"], figures["late"]) == (collateral, late)
    months = Counter(Month().start(sent.at) for sent in log)
    assert max(months.values()) <= FREE_PATHS + dollars / PATH_DOLLARS
    paid = sum(max(0, units - FREE_PATHS) for units in months.values())
    assert world.dollars == pytest.approx(paid * PATH_DOLLARS)


@pytest.mark.slow
def test_better_than_the_rules_and_worse_than_knowing() -> None:
    """On a history that nobody looked at the planner is better than every rule, and not better than hindsight."""
    windows = some_weeks(seed=3)[:60]
    scores = {policy: run(windows, 0.0, policy)["score"] for policy in [*POLICIES, "hindsight"]}
    assert scores["ours"] < min(scores[policy] for policy in POLICIES if policy != "ours")
    assert scores["hindsight"] <= scores["ours"]
