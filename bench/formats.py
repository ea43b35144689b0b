"""
The decoder: events per CPU second of each format, compared with a bare ``json.loads`` of the same bodies.

    python -m bench.formats [--seconds S] [--json]

Bodies are the messages of the golden corpus that bring changes, by file, over and over; what is in an envelope is
parsed once for each layer, by the peer too. The ratio is the decoder's rate to the peer's: 0.5 says that
to decode takes as long as to parse, once more.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from listener.formats import decode
from tests.formats.corpus_cases import CASES

RUNS = 5


def bodies() -> dict[str, list[bytes]]:
    """Return the bodies of each file of the corpus, and of some envelopes by themselves."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for case in CASES:
        if case.expected and not case.arguments and len(case.body) < 10_000:
            found[case.id.partition(":")[0]].append(case.body)
    found["oss in Base64"] = [base64.b64encode(body) for body in found["oss"]]
    found["aws in SNS"] = [wrapped(body) for body in found["aws"]]
    del found["envelopes"], found["moto"]
    return found


def wrapped(body: bytes) -> bytes:
    """Return the message as SNS carries it."""
    text = body.decode("utf-8", "surrogateescape")
    return json.dumps({"Type": "Notification", "TopicArn": "arn", "Message": text}).encode()


def parse(body: bytes) -> None:
    """Parse a message and what is in it, and look at nothing."""
    found = json.loads(base64.b64decode(body) if body[:1] not in b"{[" else body.decode("utf-8", "surrogateescape"))
    if "Message" in found:
        json.loads(found["Message"])


def per_second(work: Callable[[bytes], object], messages: Sequence[bytes], seconds: float) -> float:
    """Return the best rate of some runs, by processor time."""
    best = 0.0
    for _ in range(RUNS):
        count, began = 0, time.process_time()
        while (took := time.process_time() - began) < seconds / RUNS:
            for body in messages:
                work(body)
            count += len(messages)
        best = max(best, count / took)
    return best


def main() -> None:
    """Measure each format and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5, help="for each figure")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = {}
    for name, messages in sorted(bodies().items()):
        events = sum(len(decode(body).changes) for body in messages) / len(messages)
        ours, bare = (per_second(work, messages, given.seconds) for work in (decode, parse))
        size = sum(map(len, messages)) / len(messages)
        figures[name] = {"bytes": size, "events": ours * events, "messages": ours, "bare": bare, "ratio": ours / bare}
    if given.json:
        print(json.dumps(figures))
        return
    print(f"{'messages of':16} {'bytes':>6} {'events/cpu s':>13} {'messages':>15} {'json.loads':>17} {'ratio':>6}")
    for name, one in figures.items():
        columns = f"{one['bytes']:6.0f} {one['events']:13,.0f} {one['messages']:15,.0f} {one['bare']:17,.0f}"
        print(f"{name:16} {columns} {one['ratio']:6.2f}")


if __name__ == "__main__":
    main()
