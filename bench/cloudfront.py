"""
Replay histories of changes against the paths of CloudFront: 1,000 free a month, then money up to a monthly budget.

    python -m bench.cloudfront                          # the table of all traces, budgets and policies
    python -m bench.cloudfront --trace hugo --dollars 0 --policy ours --json

See ``bench/README-cloudfront.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

from bench.planning.hindsight import best_known
from bench.planning.paths import BY_MONTH, Everything, OursByPath, Paths
from bench.planning.policies import CollapseLevels, PerFile
from bench.planning.replay import replay
from bench.planning.traces import Window, find_trace, read_windows

TRACES = ("alibaba-cdn-docs", "alibaba-oss-docs", "python-peps", "hugo")
BUDGETS = (0.0, 10.0, 50.0, 250.0)
POLICIES = {"ours": OursByPath, "everything-8": Everything, "collapse-levels": CollapseLevels, "per-path": PerFile}


def faster(windows: list[Window], factor: int) -> list[Window]:
    """Return a history in which the same happens in a shorter time."""
    began = windows[0].at
    return [Window(began + (one.at - began) / factor, one.changes, one.last_change) for one in windows]


def run(windows: list[Window], dollars: float, policy: str) -> dict[str, Any]:
    """Return the figures of one policy with one budget."""
    if policy == "hindsight":  # whatever is feasible without money is so with it, too
        tried = [best_known(windows, partial(Paths, most), BY_MONTH, [OursByPath, PerFile]) for most in {0.0, dollars}]
        figures, world = min(tried, key=lambda one: one[1].score)
    else:
        world = Paths(dollars)
        figures = replay(windows, world, POLICIES[policy]())
    assert isinstance(world, Paths)
    return {"policy": policy, "monthly_dollars": dollars, **figures, "dollars": round(world.dollars, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", help="only this one: a path, or the name of a bundled trace")
    parser.add_argument("--faster", type=int, default=1, help="let the same changes come so many times faster")
    parser.add_argument("--dollars", type=float, help="only this monthly budget")
    parser.add_argument("--policy", choices=[*POLICIES, "hindsight"], help="only this one")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of a table")
    given = parser.parse_args()
    policies = [given.policy] if given.policy else [*POLICIES, "hindsight"]
    if not given.json:
        print("| trace, budget | " + " | ".join(policies) + " |")
        print("|---" * (len(policies) + 1) + "|")
    for trace in [given.trace] if given.trace else TRACES:
        windows = faster(read_windows(find_trace(trace)), given.faster)
        for dollars in BUDGETS if given.dollars is None else [given.dollars]:
            cells = []
            for policy in policies:
                found = {"trace": trace, "faster": given.faster, **run(windows, dollars, policy)}
                if given.json:
                    print(json.dumps(found), flush=True)
                cells.append(cell(found))
            if not given.json:
                print(f"| {trace} ${dollars:.0f} | " + " | ".join(cells) + " |", flush=True)
    return 0


def cell(found: dict[str, Any]) -> str:
    """Return stale hours, evictions, dollars, and paths that waited more than an hour."""
    late = f" ({found['late']:,})" if found["late"] else ""
    return f"{found['stale_object_hours']:,.0f}{late} / {found['collateral']:,} / ${found['dollars']:,.2f}"


if __name__ == "__main__":
    sys.exit(main())
