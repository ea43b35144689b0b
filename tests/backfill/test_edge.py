"""The edge next to the storage: fresh, stale or unknown, by what HEAD says; nothing is changed."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest

from listener.backfill import ask_edge
from listener.backfill.audit import EdgeReport, Seen, Verdict, judge, read_answer, sample
from listener.change import Change, ChangeKind, Fingerprint
from tests.sources.listing.buckets import MadeUp
from tests.stand import Stand, fetch

NOW = 1_800_000_000.0
HELD = Fingerprint(10, int((NOW - 1000) * 1e9), etag="0" * 32)
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("held", "seen", "state"),
    [
        (HELD, Seen(200, etag="0" * 32), "fresh"),
        (HELD, Seen(200, etag="0" * 32, length=11, age_seconds=5000), "fresh"),
        (HELD, Seen(200, etag="1" * 32, modified_at=NOW - 1000, length=10), "stale"),
        (HELD, Seen(200, etag="65f-a", modified_at=NOW - 1000, length=10), "fresh"),
        (HELD, Seen(200, modified_at=NOW - 1002), "stale"),
        (HELD, Seen(200, modified_at=NOW - 1000, length=11), "stale"),
        (HELD, Seen(200, modified_at=NOW - 1000), "fresh"),
        (HELD, Seen(200, modified_at=NOW - 500), "unknown"),
        (HELD, Seen(200, age_seconds=2000), "stale"),
        (HELD, Seen(200, age_seconds=10), "fresh"),
        (HELD, Seen(200, age_seconds=1000), "unknown"),
        (HELD, Seen(200), "unknown"),
        (HELD, Seen(404), "stale"),
        (HELD, Seen(410), "stale"),
        (HELD, Seen(301), "unknown"),
        (HELD, Seen(503, etag="0" * 32), "unknown"),
        (Fingerprint(), Seen(200, etag="x", modified_at=NOW, length=3, age_seconds=1), "unknown"),
        (Fingerprint(3), Seen(200, length=4), "stale"),
    ],
)
def test_what_is_fresh(held: Fingerprint, seen: Seen, state: str) -> None:
    """One row a rule; what cannot be determined is unknown, and never fresh."""
    assert judge(held, seen, now=NOW).state == state


def test_answers_are_read_with_care() -> None:
    """Weak tags, compressed lengths, dates and ages that are none."""
    reported = {"ETag": 'W/"AB"', "Last-Modified": "Thu, 01 Jan 1970 00:00:09 GMT", "Content-Length": "7", "Age": "3"}
    assert read_answer(200, reported) == Seen(200, "ab", 9.0, 7, 3.0)
    assert read_answer(200, reported | {"Content-Encoding": "gzip"}).length is None
    assert read_answer(200, {"Last-Modified": "soon", "Content-Length": "x", "Age": "-1"}) == Seen(200)


def test_every_object_is_as_likely() -> None:
    """A sample is drawn without knowing how many there are; deletions and folders are no objects."""
    changes = [Change("www", str(number), fingerprint=Fingerprint(1)) for number in range(20)]
    changes += [Change("www", "gone", ChangeKind.DELETED), Change("www", "d/", ChangeKind.SUBTREE)]
    chance, hits = random.Random(7), Counter[str]()
    for _ in range(2000):
        drawn, seen = sample(changes, 5, chance=chance)
        assert (len({change.key for change in drawn}), seen) == (5, 20)
        hits.update(change.key for change in drawn)
    assert len(hits) == 20
    assert min(hits.values()) > 350
    assert len(sample(changes, 100, chance=chance)[0]) == 20


def test_examples_are_bounded() -> None:
    """Ten of each kind, however many there are."""
    report = EdgeReport()
    for number in range(100):
        report.note(f"u{number}", Verdict("stale", "old"))
        report.note(f"v{number}", Verdict("unknown", "?"))
        report.note(f"w{number}", Verdict("fresh", ""))
    assert Counter(one["state"] for one in report.examples) == {"stale": 10, "unknown": 10}
    assert (report.fresh, report.stale, report.unknown) == (100, 100, 100)


@pytest.mark.looptime(False)
def test_an_audit_queries_the_edge(stand: Stand, command: Command) -> None:
    """What the edge cached before a change is stale, the rest fresh; the audit itself fetches and refreshes nothing."""
    names = [f"{number}.html" for number in range(6)] + ["é ü.html"]
    for name in names:
        stand.write(name)
        os.utime(stand.tree / name, (1_700_000_000, 1_700_000_000))
        assert fetch(stand.url(name))[0] == 200
    stand.write("3.html", "three")
    status, out, _ = command("backfill", "--mode", "audit", "--edge")
    reported = json.loads(out)["edge"]
    assert status == 0
    assert (reported["asked"], reported["stale"], reported["fresh"] + reported["unknown"]) == (7, 1, 6), reported
    assert [one["url"] for one in reported["examples"] if one["state"] == "stale"] == [stand.url("3.html")]
    assert json.loads(command("backfill", "--mode", "audit", "--edge", "--edge-samples", "2")[1])["edge"]["asked"] == 2
    assert stand.paths() == []
    assert command("backfill", "--edge", "--yes")[0] == 2


@pytest.mark.looptime(False)
async def test_an_edge_that_is_gone(stand: Stand) -> None:
    """Unknown, with the reason; never fresh."""
    from listener.router.routing import Sites
    from listener.settings import load_settings

    sites = Sites(load_settings(stand.config, {}).sites)
    text = stand.config.read_text().replace(stand.edge, "http://127.0.0.1:9")
    stand.put(text)
    sites = Sites(load_settings(stand.config, {}).sites)
    listing = MadeUp({"a": Fingerprint(1), "b\\c": Fingerprint(1)})
    asked = ask_edge(listing, sites, count=9, per_second=1000, now=lambda: NOW, chance=random.Random(1))
    report = await asyncio.wait_for(asked, 60)
    assert (report.unknown, report.fresh, report.stale, report.listed) == (1, 0, 0, 2)
    assert "no answer" in report.examples[0]["reason"]
