"""Plans for accounts with a daily quota for each kind are those that they were when the planner knew nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from listener.planner import Plan, plan
from tests.planner.random_days import drawn

RECORDED = Path(__file__).with_name("data") / "daily_plans.txt"
"""For each seed from 0 on, a digest of the plan made before allowances were known."""


def digest(made: Plan) -> str:
    """Return a short digest of all that a plan decides; not of its reasons."""
    decisions = [
        [(d.target, d.url, d.covers, d.collateral, d.collateral_known, d.oldest) for d in made.directories],
        [(f.target, f.directory_url, f.take, f.kind.value) for f in made.files],
        [(d.target, d.directory_url, d.needs, d.oldest) for d in made.deferred],
        sorted((kind.value, units) for kind, units in made.spent.items()),
        [made.collateral, f"{made.gap:.6g}", f"{made.file_price:.6g}"],
        "" if made.wake_at is None else f"{made.wake_at:.3f}",
    ]
    return hashlib.sha256(repr(decisions).encode()).hexdigest()[:10]


def test_daily_plans_are_what_they_were() -> None:
    """A thousand questions drawn at random have the same plans as ever."""
    recorded = RECORDED.read_text(encoding="ascii").split()
    differing = [seed for seed, was in enumerate(recorded) if digest(plan(drawn(seed))) != was]
    assert len(recorded) == 1000
    assert differing == []
