"""The edge compared with the storage: a sample of a listing, and its report; nothing is changed."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest

from listener.backfill import ask_edge
from listener.backfill.audit import EdgeReport, expected_of, sample
from listener.change import Change, ChangeKind, Fingerprint
from listener.clock import SystemClock
from listener.edge.prober import Prober
from listener.edge.verdict import Expected, Verdict
from tests.sources.listing.buckets import MadeUp
from tests.stand import Stand, fetch

Command = Callable[..., tuple[int, str, str]]


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


def test_the_time_of_an_object_is_that_of_its_last_change() -> None:
    """Where the listing has one."""
    held = Fingerprint(1, 5_000_000_000)
    assert expected_of(held) == Expected(held, changed_at=5.0)
    assert expected_of(Fingerprint(1)) == Expected(Fingerprint(1))


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
    prober = Prober(sites=["http://127.0.0.1:9/"], per_minute=60_000, clock=SystemClock())
    asked = ask_edge(listing, sites, prober, count=9, chance=random.Random(1))
    report = await asyncio.wait_for(asked, 60)
    assert (report.unknown, report.fresh, report.stale, report.listed) == (1, 0, 0, 2)
    assert "no answer" in report.examples[0]["reason"]
