"""The rule for copies of a tree, searched exhaustively: it loses nothing, and each part of it is needed."""

from __future__ import annotations

import pytest

from tests.store.replica_model import Model, Rule

DEPTH = 9
"""Steps. The whole space, without a limit, has 123,072 worlds and no loss; it takes 20 s."""


def test_the_rule_loses_nothing() -> None:
    """Whatever happens in whichever order."""
    assert Model(Rule()).loss(DEPTH) is None


@pytest.mark.parametrize(
    ("rule", "depth"),
    [
        (Rule(equal_elsewhere_suppresses=True), 4),
        (Rule(rearms_waiting_only=True), 4),
        (Rule(settles_whatever_came=True), 4),
        (Rule(first_scan_is_silent=True), 3),
        (Rule(own_attributes_count=False), 7),
        (Rule(ctime_is_compared=False), 9),
    ],
    ids=lambda value: (
        ", ".join(f"{name}={one}" for name, one in value._asdict().items() if one != getattr(Rule(), name))
        if isinstance(value, Rule)
        else str(value)
    ),
)
def test_without_each_part_of_it_something_is_lost(rule: Rule, depth: int) -> None:
    """In exactly so many steps at the soonest."""
    model = Model(rule)
    assert model.loss(depth - 1) is None
    assert model.loss(depth) is not None
