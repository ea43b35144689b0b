"""The benchmark's figures are what its log says, and the planner keeps its place among the policies."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.planning.hindsight import hindsight
from bench.planning.policies import POLICIES
from bench.planning.replay import replay
from bench.planning.scoring import score_log, units_by_day
from bench.planning.traces import Window, find_trace, read_windows
from bench.planning.world import World
from tests import ROOT

FIELDS = {
    "score", "collateral", "stale_object_hours", "late", "file_units", "directory_units", "planning_seconds",
}  # fmt: skip


def some_weeks(seed: int) -> list[Window]:
    """Make a history of single edits and now and then bulk work, creations and deletions among them."""
    rng = random.Random(seed)
    keys = [f"{rng.choice('abc')}/{rng.choice(['', 'x/', 'y/z/', 'ü w/'])}{n}.html" for n in range(400)]
    at, windows = 1_700_000_000.0, []
    for _ in range(120):
        at += rng.expovariate(1 / 9_000)
        count = rng.choice((1, 1, 2, 5, 20, 150))
        windows.append(Window(at + 30, {key: rng.random() < 0.9 for key in rng.sample(keys, count)}, at))
        at += 31
    return windows


@pytest.mark.parametrize("policy", [*POLICIES])
@pytest.mark.parametrize("quota", [(60, 4), (15, 1), (0, 2), (10, 0)])
def test_the_score_follows_from_the_log(policy: str, quota: tuple[int, int]) -> None:
    """Whatever the policy, score and units can be worked out again from the log, and no day exceeds its quota."""
    windows = some_weeks(seed=quota[0])
    world = World(*quota)
    figures = replay(windows, world, POLICIES[policy]())
    log = world.log or []
    collateral, hours, late = score_log(windows, log)
    assert (figures["collateral"], figures["late"]) == (collateral, late)
    if not figures["unsettled"]:
        assert figures["stale_object_hours"] == pytest.approx(hours, abs=0.01)
    assert [sent.at for sent in log] == sorted(sent.at for sent in log)
    for (_, kind), units in units_by_day(log).items():
        assert units <= quota[kind == "directory"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_better_than_the_fixed_rules_and_worse_than_knowing(seed: int) -> None:
    """On histories that nobody looked at the planner scores better than every fixed rule."""
    windows = some_weeks(seed=seed)
    scores = {name: replay(windows, World(80, 5), made())["score"] for name, made in POLICIES.items()}
    fixed = ("per-file", "threshold-8", "threshold-128", "collapse-levels")
    assert scores["ours"] < min(scores[name] for name in fixed)
    few = windows[:30]  # knowing the day takes trying it over and over
    figures, world = hindsight(few, World(80, 5))
    assert figures["score"] <= replay(few, World(80, 5), POLICIES["ours"]())["score"]
    assert score_log(few, world.log or [])[0] == figures["collateral"]


def test_what_need_not_wait_goes_when_it_is_quiet() -> None:
    """On a real history with quota to spare the median wait is the quiet time, and nobody waits for an hour."""
    windows = read_windows(find_trace("alibaba-cdn-docs"))
    figures = replay(windows, World(2000, 100), POLICIES["ours"]())
    assert figures["median_wait_seconds"] <= 31
    assert (figures["score"], figures["late"]) == (0, 0)


@pytest.mark.parametrize("trace", ["alibaba-oss-docs", "python-peps", "hugo"])
def test_at_a_small_quota_nobody_waits_for_an_hour(trace: str) -> None:
    """On real histories with days beyond five hundred files nothing is stale for longer than an hour."""
    figures = replay(read_windows(find_trace(trace)), World(500, 20), POLICIES["ours"]())
    assert (figures["late"], figures["unsettled"]) == (0, 0)


def test_the_command_reads_a_path_and_writes_a_log(tmp_path: Path) -> None:
    """``bench/day.py`` takes a trace by path, prints the promised fields as JSON and logs every refresh."""
    trace = tmp_path / "own.tsv.gz"
    with gzip.open(trace, "wt", encoding="utf-8") as lines:
        lines.write("1700000000\tA\ta b/é.html\n1700000010\tM\ta b/é.html\n1700000100\tD\tx\n")
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "bench/day.py", "--trace", str(trace), "--files", "10", "--directories", "1",
               "--policy", "ours", "--json", "--log", str(log)]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    assert json.loads(ended.stdout).keys() >= FIELDS
    assert [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] == [
        {"t": 1700000040.0, "kind": "file", "key": "a b/é.html"},
        {"t": 1700000130.0, "kind": "file", "key": "x"},
    ]
