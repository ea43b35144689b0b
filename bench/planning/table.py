"""
Every bundled trace, quota and policy, and how much the planner's constants matter, as Markdown tables.

    python -m bench.planning.table [--have FILE]

``--have`` names a file of JSON lines as ``bench/day.py --json`` prints them; what is in it is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

from bench.planning.hindsight import hindsight
from bench.planning.policies import POLICIES, Ours
from bench.planning.replay import replay
from bench.planning.traces import Window, find_trace, read_windows
from bench.planning.world import World
from listener.allowances import ALIBABA_DAY
from listener.planner import model, pacing

TRACES = ("alibaba-cdn-docs", "alibaba-oss-docs", "python-peps", "hugo")
QUOTAS = ((2000, 100), (500, 20), (100, 5), (50, 2))
GRID = {
    (pacing, "DIRECTORY_DECAY"): (1.0, 1.5, 2.0),
    (model, "PRESENT_WEIGHT"): (1.0, 2.0, 4.0),
}
SHIFTS = (0, 3, 6, 10, 14, 19)
"""Hours by which the histories are moved, so that their days are parted elsewhere."""
EVEN = 1e12
"""A prior belief in even hours that no history moves."""
Cell = tuple[str, int, int]


def binding(windows: list[Window], files: int) -> bool:
    days: dict[int, int] = {}
    for window in windows:
        day = ALIBABA_DAY.start(window.at)
        days[day] = days.get(day, 0) + len(window.changes)
    return max(days.values()) > files


def run(windows: list[Window], cell: Cell, policy: str) -> dict[str, Any]:
    world = World(cell[1], cell[2])
    figures = hindsight(windows, world)[0] if policy == "hindsight" else replay(windows, world, POLICIES[policy]())
    return {"trace": cell[0], "files": cell[1], "directories": cell[2], "policy": policy, **figures}


def set_constants(values: tuple[float, ...]) -> None:
    for (module, name), value in zip(GRID, values, strict=True):
        setattr(module, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--have", type=Path)
    given = parser.parse_args()
    have = {}
    for line in given.have.read_text().splitlines() if given.have else ():
        row = json.loads(line)
        have[row["trace"], row["files"], row["directories"], row["policy"]] = row
    traces = {name: read_windows(find_trace(name)) for name in TRACES}
    cells = [(name, *quota) for name, quota in product(TRACES, QUOTAS) if binding(traces[name], quota[0])]
    policies = [*POLICIES, "hindsight"]
    rows = {
        (*cell, policy): have.get((*cell, policy)) or run(traces[cell[0]], cell, policy)
        for cell, policy in product(cells, policies)
    }
    print("| trace, files/directories | " + " | ".join(policies) + " | ours / hindsight | ours: late, planning s |")
    print("|---" * (len(policies) + 3) + "|")
    for cell in cells:
        scores = [rows[(*cell, policy)]["score"] for policy in policies]
        ours, best = rows[(*cell, "ours")], scores[-1]
        ratio = f"{ours['score'] / best:.2f}" if best else "1.00" if not ours["score"] else "-"
        figures = " | ".join(f"{score:,.0f}" for score in scores)
        print(f"| {cell[0]} {cell[1]}/{cell[2]} | {figures} | {ratio} | {ours['late']}, {ours['planning_seconds']} |")
    print()
    print("| trace, files/directories | " + " | ".join(policies) + " |")
    print("|---" * (len(policies) + 1) + "|")
    for cell in cells:
        pairs = [rows[(*cell, policy)] for policy in policies]
        figures = " | ".join(f"{r['collateral']:,} + {r['stale_object_hours']:,.0f} ({r['late']:,})" for r in pairs)
        print(f"| {cell[0]} {cell[1]}/{cell[2]} | {figures} |")
    print()
    learned_hours(traces, cells)
    print()
    leave_one_out(traces, cells, {cell: rows[(*cell, "hindsight")]["score"] for cell in cells})


def learned_hours(traces: dict[str, list[Window]], cells: list[Cell]) -> None:
    """Score the planner with learned hours next to one to which all hours are alike, on shifted days too."""
    usual = model.PRIOR_ARRIVALS_PER_HOUR
    print("| clock shifted by | " + " | ".join(TRACES) + " | all |")
    print("|---" * (len(TRACES) + 2) + "|")
    for hours in SHIFTS:
        logs: dict[str, list[float]] = {name: [] for name in TRACES}
        for cell in cells:
            windows = [Window(w.at + hours * 3600, w.changes, w.last_change + hours * 3600) for w in traces[cell[0]]]
            scores = []
            for prior in (usual, EVEN):
                model.PRIOR_ARRIVALS_PER_HOUR = prior
                scores.append(replay(windows, World(cell[1], cell[2]), Ours())["score"])
            logs[cell[0]].append(math.log((scores[0] + 1) / (scores[1] + 1)))
        model.PRIOR_ARRIVALS_PER_HOUR = usual
        everything = [one for found in logs.values() for one in found]
        means = [math.exp(sum(found) / len(found)) for found in (*logs.values(), everything)]
        print(f"| {hours} h | " + " | ".join(f"{mean:.2f}" for mean in means) + " |", flush=True)


def leave_one_out(traces: dict[str, list[Window]], cells: list[Cell], best: dict[Cell, float]) -> None:
    """Fit the constants to three traces and score them on the fourth, next to the constants as they stand."""
    usual = tuple(getattr(module, name) for module, name in GRID)
    scores: dict[tuple[float, ...], dict[Cell, float]] = {}
    for values in product(*GRID.values()):
        set_constants(values)
        scores[values] = {cell: replay(traces[cell[0]], World(cell[1], cell[2]), Ours())["score"] for cell in cells}
    set_constants(usual)

    def mean(values: tuple[float, ...], names: set[str]) -> float:
        logs = [math.log((scores[values][c] + 1) / (best[c] + 1)) for c in cells if c[0] in names]
        return math.exp(sum(logs) / len(logs))

    everything = [mean(values, set(TRACES)) for values in scores]
    print("| left out | constants fitted to the others | ratio to hindsight there, as fitted | as they stand |")
    print("|---|---|---|---|")
    for name in TRACES:
        fitted = min(scores, key=lambda values: mean(values, set(TRACES) - {name}))
        print(f"| {name} | {fitted} | {mean(fitted, {name}):.2f} | {mean(usual, {name}):.2f} |")
    print()
    print(
        f"Over all cells the ratio is {mean(usual, set(TRACES)):.2f} as the constants stand {usual}; over the "
        f"{len(everything)} settings of the grid it lies between {min(everything):.2f} and {max(everything):.2f}."
    )


if __name__ == "__main__":
    main()
