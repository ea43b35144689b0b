"""
The way in: messages per CPU second, from a queue or a request to the durable state file, compared with a bare loop.

Each source has a module in ``ways_in`` with one function (:data:`SOURCES`) that measures itself and its peer in the
same run, and returns figures. The servers run in processes of their own: the CPU seconds are the listener's alone.

    python -m bench.ingest                      # all of them
    python -m bench.ingest sqs --messages 50000
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

import structlog

from bench.ways_in import queues, webhook

Figures = Mapping[str, float | str]
Measure = Callable[[int], Awaitable[Figures]]
"""Takes how many messages to send through; returns figures by name, units in the names."""

SOURCES: dict[str, Measure] = {"sqs": queues.measure_sqs, "mns": queues.measure_mns, "webhook": webhook.measure}


def main() -> None:
    """Print one JSON line for each source."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", choices=[*SOURCES], help="which to measure; by default all")
    parser.add_argument("--messages", type=int, default=20_000)
    given = parser.parse_args()
    for name in given.sources or SOURCES:
        figures = asyncio.run(SOURCES[name](given.messages))  # type: ignore[arg-type]
        print(json.dumps({"source": name, "messages": given.messages, **figures}), flush=True)


if __name__ == "__main__":
    main()
