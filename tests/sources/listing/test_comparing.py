"""A listing next to the index: what differs is found, what was not read is never missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.change import Change, Fingerprint
from listener.errors import SourceUnavailable
from listener.sources.listing import Comparison, Drift
from listener.sources.listing import comparing as comparing_module
from listener.sources.listing.comparing import same_content
from listener.store import Store, open_store
from listener.store.batches import Batch
from tests.sources.listing.buckets import MadeUp

KEYS = st.sampled_from(
    ["a", "a/", "a/b", "a/b/", "a/b/c", "a/c", "a!", "b", "b/b/", "b/b/b", "b0", "é/", "é/x", "z/y/x", "z/y/z"]
)
OBJECTS = st.dictionaries(KEYS, st.integers(1, 3).map(lambda size: Fingerprint(size, etag="e")))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the state files of this module are."""
    return tmp_path_factory.mktemp("stores")


async def seed(store: Store, objects: dict[str, Fingerprint], root: str) -> None:
    """Have the index know these."""
    await store.record([Batch([Change(root, key, fingerprint=of) for key, of in objects.items()], seed=True)], _nowhere)


def _nowhere(_change: Change) -> list[object]:
    return []


async def compared(listing: MadeUp, store: Store) -> tuple[Drift, dict[str, str]]:
    """Return the figures, and the kind of change of each key that differs."""
    with closing(Comparison(listing, store)) as comparison:
        found = [change async for portion in comparison.findings() for change in portion]
        found += [change for portion in comparison.deletions() for change in portion]
    return comparison.drift, {change.key: change.kind.value for change in found}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OBJECTS, OBJECTS, st.integers(1, 3))
def test_every_difference_and_nothing_else(
    stores: Path, known: dict[str, Fingerprint], held: dict[str, Fingerprint], page: int
) -> None:
    """New, changed and gone, as comparing two dictionaries says, in whatever order folders and files stand."""

    async def run() -> tuple[Drift, dict[str, str]]:
        async with open_store(f"sqlite:///{stores}/state.db") as store:
            root = f"root {(await store.sequence())}"
            await seed(store, known, root)
            return await compared(MadeUp(held, root=root), store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing_module, "INDEX_ROWS", page)
        patch.setattr(comparing_module, "PORTION_KEYS", page)
        drift, found = asyncio.run(run())
    wanted = {key: "content" for key in held if known.get(key) != held[key]}
    wanted |= {key: "deleted" for key in known if key not in held}
    assert found == wanted
    assert (drift.same, drift.gone) == (len(held) - (len(wanted) - drift.gone), len(known.keys() - held.keys()))


@pytest.mark.looptime(False)
async def test_a_folder_marker_that_an_event_named_is_not_missing(store: Store) -> None:
    """Listings leave empty objects whose key ends with ``/`` out; one with content is an object like any other."""
    known = {
        "a/": Fingerprint(0),
        "b/": Fingerprint(None),
        "c/": Fingerprint(6),
        "d/": Fingerprint(6),
        "d/x": Fingerprint(1),
    }
    await seed(store, known, "www")
    listing = MadeUp({"d/": Fingerprint(6), "d/x": Fingerprint(1)})
    assert (await compared(listing, store))[1] == {"c/": "deleted"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A state file."""
    async with open_store(f"sqlite:///{tmp_path}/state.db") as store:
        yield store


def many(count: int) -> dict[str, Fingerprint]:
    """Return so many objects in some folders."""
    return {f"d{number % 5}/{number:04}": Fingerprint(1, etag="e") for number in range(count)}


@pytest.mark.looptime(False)
async def test_a_listing_that_fails_half_way_deletes_nothing(store: Store) -> None:
    """What was found up to then is found; nothing is gone, and its end is not reported."""
    await seed(store, many(6000), "www")
    listing = MadeUp(many(6000) | {"d0/new": Fingerprint(1)}, fails_after=4500)
    listing.error = lambda: SourceUnavailable("cut off")
    comparison, found = Comparison(listing, store), []
    with pytest.raises(SourceUnavailable, match="cut off"):
        async for portion in comparison.findings():
            found += portion
    assert [change.key for change in found] == ["d0/new"]
    assert (comparison.finished, comparison.drift.gone) == (False, 0)
    comparison.close()


@pytest.mark.looptime(False)
async def test_a_part_says_nothing_of_the_rest(store: Store) -> None:
    """Below a prefix only what starts so can be gone; of a list of keys or chosen ones nothing is."""
    await seed(store, many(50), "www")
    listing = MadeUp({key: of for key, of in many(50).items() if key.startswith("d1/") and not key.endswith("1")})
    listing.prefix = "d1/"
    _, found = await compared(listing, store)
    assert set(found) == {key for key in many(50) if key.startswith("d1/") and key.endswith("1")}
    listing.prefix, listing.objects = "d1/000", {}
    assert set((await compared(listing, store))[1]) == {"d1/0001", "d1/0006"}
    listing.complete = False
    assert (await compared(listing, store))[0].gone == 0
    listing.prefix, listing.objects = "", {key: of for key, of in many(50).items() if key in ("d0/0000", "d0/0045")}
    assert (await compared(listing, store))[0].gone == 0, "also between keys that are listed"


@pytest.mark.parametrize(
    ("known", "held", "believed"),
    [
        (10, 9, True),
        (1000, 0, False),
        (5, 0, False),
        (1000, 100, False),
        (1000, 901, True),
        (90, 1, True),
        (0, 0, True),
    ],
)
def test_a_mass_of_missing_keys_is_not_believed(known: int, held: int, believed: bool) -> None:
    """Nothing left at all, or most of it gone at once: held back, with the reason."""
    drift = Drift(same=held, gone=known - held)
    assert (drift.refusal(share=0.5, minimum=100) == "") is believed


def test_only_what_both_say_is_compared() -> None:
    """An event reports no time, a tree no tag: what one of them does not say is no difference; metadata times are."""
    event, listed = Fingerprint(5, etag="ab"), Fingerprint(5, 1_000, etag="ab")
    assert same_content(event, listed)
    assert same_content(listed, None)
    assert not same_content(event, listed._replace(etag="cd"))
    assert not same_content(event, listed._replace(size_bytes=6))
    assert not same_content(listed, listed._replace(mtime_ns=2_000))
    assert same_content(listed._replace(inode=1, ctime_ns=1), listed._replace(inode=2, ctime_ns=2))
