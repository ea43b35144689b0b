"""
Replay a history of changes against a day's quota, under one policy.

    python -m bench.day --trace hugo --files 500 --directories 20 --policy ours --json

A trace is a path or the name of a bundled one: lines of epoch seconds, A, M or D, and path, tab-separated. See
``bench/README-planner.md`` for the score and the table of all cells.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.planning.hindsight import hindsight
from bench.planning.policies import POLICIES
from bench.planning.replay import replay
from bench.planning.traces import find_trace, read_windows
from bench.planning.world import Sent, World


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", required=True, help="path, or name of a bundled trace")
    parser.add_argument("--files", type=int, required=True, help="file refreshes a day")
    parser.add_argument("--directories", type=int, required=True, help="directory refreshes a day")
    parser.add_argument("--policy", choices=[*POLICIES, "hindsight"], default="ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--log", type=Path, help="write every refresh as a JSON line")
    given = parser.parse_args()
    if given.files < 0 or given.directories < 0:
        parser.error("quotas cannot be negative")
    return given


def write_log(path: Path, log: list[Sent]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for sent in log:
            lines.write(json.dumps({"t": sent.at, "kind": sent.kind, "key": sent.key}, ensure_ascii=False) + "\n")


def main() -> int:
    given = arguments()
    windows = read_windows(find_trace(given.trace))
    world = World(given.files, given.directories)
    if given.policy == "hindsight":
        figures, world = hindsight(windows, world)
    else:
        figures = replay(windows, world, POLICIES[given.policy]())
    figures = {"trace": given.trace, "files": given.files, "directories": given.directories,
               "policy": given.policy, **figures}  # fmt: skip
    if given.log:
        write_log(given.log, world.log or [])
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>20}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
