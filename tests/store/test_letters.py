"""Dead letters: bounded whatever is sent, counted where they are dropped, rejected URLs first, page by page."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change
from listener.contracts import SourceHealth, SourceState, Unreadable
from listener.errors import KeyRejected
from listener.store import NeedInput, letters
from listener.store.batches import Batch
from listener.store.index import MAX_TEXT_CHARACTERS, bounded_text
from listener.store.letters import DeadLetter, LetterFilter, LetterKind, bounded_subject
from listener.store.sqlite import migrations
from listener.store.sqlite.database import prepare
from tests.store.steps import BASE, Bench, content, file


def rejecting(change: Change) -> list[NeedInput]:
    """A site to which no key is a URL."""
    raise KeyRejected(f"{change.key[:10]} is none")


async def put(bench: Bench, *, urls: int = 0, keys: int = 0, messages: int = 0) -> None:
    """Set so much of each kind aside."""
    if urls:
        names = [f"d{n % 3}/{n}.html" for n in range(urls)]
        for name in names:
            await bench.change(content(name), wait=0)
            bench.clock.advance(1)
        bench.clock.advance(60)
        await bench.store.promote_due()
        for one in await bench.hold(*(file(name) for name in names)):
            await bench.store.park([one.id], error="Malformed")
    if keys:
        await bench.store.record([Batch([content(f"bad{n}") for n in range(keys)])], rejecting)
    if messages:
        await bench.store.add_dead_letters("q", [Unreadable(b"m-%d" % n, b"body", "no JSON") for n in range(messages)])


async def pages(bench: Bench, wanted: LetterFilter, *, limit: int) -> list[DeadLetter]:
    """Return everything that is listed, read page by page."""
    found: list[DeadLetter] = []
    while page := await bench.store.dead_letters(wanted._replace(after=found[-1].id if found else ""), limit=limit):
        found += page
    return found


@given(
    st.binary(max_size=20) | st.binary(max_size=50).map(lambda raw: raw * 100) | st.text(min_size=400).map(str.encode)
)
def test_a_bounded_subject_is_found_by_its_digest(subject: bytes) -> None:
    """Short ones stay as they are; a long one keeps its beginning, uncut characters, its length and digest."""
    kept = bounded_subject(subject)
    assert len(kept) <= letters.MAX_SUBJECT_BYTES
    if len(subject) <= letters.MAX_SUBJECT_BYTES:
        assert kept == subject
        return
    begin, _, rest = kept.partition("… [".encode())
    assert subject.startswith(begin)
    assert f"{len(subject)} bytes, SHA-256 {hashlib.sha256(subject).hexdigest()}]".encode() == rest
    assert bounded_subject(kept) == kept


def test_a_character_is_not_cut() -> None:
    """What was text stays text."""
    for shift in range(4):
        bounded_subject(b"x" * shift + "日".encode() * 2_000).decode()
    assert len(bounded_text("日" * 5_000)) == MAX_TEXT_CHARACTERS


async def test_hostile_keys_and_answers_cost_little_disk(bench: Bench) -> None:
    """Sixty keys of 900 kB, and as long reasons, details and bodies, leave a small file, and each is a dead letter."""
    long = "k" * 900_000
    changes = [Change("www", f"{n}{long}", content("x").kind, None, order=f"{n:020}") for n in range(60)]
    await bench.store.record([Batch(changes)], rejecting)
    await bench.store.record([Batch([content(f"{long}{n}") for n in range(3)])], rejecting)
    await bench.store.add_dead_letters("q", [Unreadable(long.encode(), long.encode(), long)])
    await bench.store.save_source("www", SourceHealth(SourceState.DEGRADED, detail=long))
    await bench.change(content("a"))
    (one,) = await bench.hold(file("a"))
    await bench.store.park([one.id], error=long)
    await bench.store.checkpoint()
    found = await bench.store.dead_letters()
    assert Counter(letter.kind for letter in found) == {"url": 1, "message": 1, "key": 63}
    assert max(len(letter.subject.encode()) for letter in found) <= letters.MAX_SUBJECT_BYTES
    assert max(len(letter.reason) for letter in found) <= MAX_TEXT_CHARACTERS
    assert len((await bench.store.sources())["www"]["detail"]) <= MAX_TEXT_CHARACTERS
    if bench.database.name == "sqlite":
        assert bench.store.path.stat().st_size < 2_000_000
    assert list(bench.index()) == ["a"]
    assert "900001 bytes" in found[-1].reason


async def test_a_long_subject_is_discarded_by_either_spelling(bench: Bench) -> None:
    """By the whole of it, or by what a list shows of it."""
    subject = "s" * 5_000
    for spelling in (subject, bounded_subject(subject.encode()).decode()):
        await bench.store.add_dead_letters("q", [Unreadable(subject.encode(), b"", "none")])
        assert await bench.store.discard(spelling) == 1
    assert await bench.store.discard(subject) == 0


async def test_one_sender_pushes_out_nobody_elses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest of whoever has most are dropped at once, and counted."""
    monkeypatch.setattr(letters, "MAX_LETTERS", 100)
    await put(bench, messages=20)
    await put(bench, keys=2_000)
    kept = await pages(bench, LetterFilter(), limit=30)
    assert Counter(one.kind for one in kept) == {"message": 20, "key": 80}
    assert [one.subject for one in kept if one.kind == "key"][:2] == ["bad1999", "bad1998"]
    (gone,) = await bench.store.dropped_letters()
    assert (gone.source, gone.kind, gone.letters, gone.bodies) == ("www", "key", 1_920, 0)


async def test_bodies_are_bounded_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest bodies go first, their messages stay, and what went is counted."""
    monkeypatch.setattr(letters, "MAX_BODIES_BYTES", 1_000)
    await bench.store.add_dead_letters("q", [Unreadable(b"m-%d" % n, b"x" * 100, "none") for n in range(15)])
    assert bench.sql("SELECT count(*), sum(length(body)) FROM dead_letter WHERE body IS NOT NULL") == [(10, 1_000)]
    assert len(await bench.store.dead_letters()) == 15
    (gone,) = await bench.store.dropped_letters()
    assert (gone.letters, gone.bodies) == (0, 5)


async def test_an_uploader_hides_no_decision(bench: Bench) -> None:
    """However many keys are set aside later, rejected URLs come first, then messages."""
    await put(bench, urls=3, messages=1, keys=1_500)
    found = await bench.store.dead_letters(limit=50)
    assert [one.kind for one in found[:5]] == ["url"] * 3 + ["message", "key"]
    assert [one.subject for one in found[:3]] == [BASE + f"d{n}/{n}.html" for n in (2, 1, 0)]


@pytest.mark.parametrize("limit", [1, 7, 1_000])
@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (LetterFilter(), 50),
        (LetterFilter(LetterKind.URL), 20),
        (LetterFilter(LetterKind.KEY), 18),
        (LetterFilter(source="q"), 12),
        (LetterFilter(source="cdn"), 20),
        (LetterFilter(prefix=BASE + "d1/"), 7),
        (LetterFilter(prefix="bad1"), 9),
        (LetterFilter(LetterKind.MESSAGE, "www"), 0),
    ],
)
async def test_every_page_of_every_filter(bench: Bench, wanted: LetterFilter, count: int, limit: int) -> None:
    """Pages of any size hold each dead letter once, in one order; each is found by its id."""
    await put(bench, urls=20, keys=18, messages=12)
    found = await pages(bench, wanted, limit=limit)
    assert len(found) == len(set(found)) == count
    assert found == [one for one in await bench.store.dead_letters() if one in found]
    assert [await bench.store.dead_letter(one.id) for one in found] == found


async def test_ids_that_are_none(bench: Bench) -> None:
    """A wrong one is refused; one that is gone begins at the top."""
    await put(bench, keys=2)
    for wrong in ("x", "letter-", "letter-x", "url-1", "url-a-0-x", "letter-99999999999999999999", "url-1-²-x"):
        assert await bench.store.dead_letter(wrong) is None
        with pytest.raises(ValueError, match="no id"):
            await bench.store.dead_letters(LetterFilter(after=wrong))
    for gone in ("letter-77", "url-1-0-x"):
        assert await bench.store.dead_letter(gone) is None
        assert len(await bench.store.dead_letters(LetterFilter(after=gone))) == 2


def test_older_files_are_bounded_when_they_are_opened(tmp_path: Path) -> None:
    """What an earlier version kept whole is kept with its beginning and digest; ids stay."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "version_1.sql").read_text())
        connection.executescript(
            f"PRAGMA application_id = {migrations.APPLICATION_ID}; PRAGMA user_version = 1;"
            "INSERT INTO meta (id, sequence, created_at) VALUES (1, 7, 0)"
        )
        rows = [(n, "www", "key", b"%d" % n + b"k" * 900_000, "r" * 5_000) for n in range(3)]
        connection.executemany(
            "INSERT INTO dead_letter (id, at, source, kind, subject, reason) VALUES (?1 + 5, ?1, ?2, ?3, ?4, ?5)", rows
        )
        connection.commit()
    with closing(prepare(path)) as connection:
        found = connection.execute("SELECT id, digest, length(subject), length(reason) FROM dead_letter").fetchall()
    assert [row[0] for row in found] == [5, 6, 7]
    assert [row[1] for row in found] == [hashlib.sha256(row[3]).digest() for row in rows]
    assert all(size <= letters.MAX_SUBJECT_BYTES and words <= MAX_TEXT_CHARACTERS for _, _, size, words in found)
