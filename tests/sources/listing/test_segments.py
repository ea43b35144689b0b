"""Many listers, one order: every key once, whatever is guessed, whatever the store does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.change import key_to_bytes
from listener.errors import SourceUnavailable
from listener.sources.listing.pages import Page, entries_in_order, half_way
from tests.sources.listing.buckets import in_order, page_of

NAMES = st.one_of(
    st.integers(0, 10**6).map("{:07}.html".format),
    st.tuples(st.integers(0, 30), st.integers(0, 500)).map(lambda of: f"d{of[0]}/{of[1]}"),
    st.text(st.sampled_from("aé日~!/0"), min_size=1, max_size=6),
)
KEYS = st.lists(NAMES, max_size=120).map(in_order)


class Store:
    """Answers from a list of keys; with ``skips``, as SeaweedFS does from keys that do not exist."""

    def __init__(self, keys: list[str], *, size: int = 5, skips: bool = False) -> None:
        self.keys, self.size, self.skips = keys, size, skips

    def __call__(self, prefix: str, after: str, *, folders: bool = False) -> Page:
        begin = after
        if self.skips and after and after not in self.keys:
            folder = [key for key in self.keys if key.startswith(after.rstrip("!") + "/")]
            begin = max([after, *folder], key=key_to_bytes)
        return page_of(self.keys, prefix, begin, folders=folders, size=self.size)


def listed(store: Store, *, prefix: str = "", after: str = "", concurrency: int = 4) -> list[str]:
    """Return the keys that come out."""
    pages = entries_in_order(store, prefix=prefix, after=after, concurrency=concurrency)
    return [entry.key for page in pages for entry in page]


@settings(deadline=None)
@given(KEYS, st.sampled_from([1, 2, 8]), st.booleans(), st.data())
def test_every_key_once_in_order(keys: list[str], concurrency: int, skips: bool, data: st.DataObject) -> None:
    """From any key on, however many listers there are, also where the store leaves folders out for guessed keys."""
    after = data.draw(st.sampled_from(["", *keys]))
    prefix = data.draw(st.sampled_from(["", "d1", "d1/", "é"]))
    wanted = [key for key in keys if key_to_bytes(key) > key_to_bytes(after) and key.startswith(prefix)]
    assert listed(Store(keys, skips=skips), prefix=prefix, after=after, concurrency=concurrency) == wanted


def test_a_folder_left_out_behind_a_seam_is_read_after_all() -> None:
    """The next part's first key is not the one that follows: that part is thrown away, and nothing is missing."""
    keys = in_order([f"d{number:03}/{name}" for number in range(40) for name in range(20)])

    class Guesses(Store):
        def __call__(self, prefix: str, after: str, *, folders: bool = False) -> Page:
            if folders:  # as names without a slash: where the store is wrong
                return Page([], [f"d{number:03}" for number in range(40)], False, None)
            return super().__call__(prefix, after)

    for _ in range(10):
        assert listed(Guesses(keys, skips=True), concurrency=4) == keys


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_listing_that_fails_half_way(concurrency: int) -> None:
    """Everything before the failure comes out, then the failure; never a shorter listing that looks whole."""
    keys = [f"{number:04}" for number in range(400)]

    class Failing(Store):
        def __call__(self, prefix: str, after: str, *, folders: bool = False) -> Page:
            if after >= "0200":
                raise SourceUnavailable("gone")
            return super().__call__(prefix, after, folders=folders)

    found: list[str] = []
    with pytest.raises(SourceUnavailable, match="gone"):
        for page in entries_in_order(Failing(keys), prefix="", after="", concurrency=concurrency):
            found += [entry.key for entry in page]
    assert found == keys[: len(found)]
    assert len(found) >= 200


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_store_that_does_not_keep_the_order_is_refused(concurrency: int) -> None:
    """Unordered listings, and stores that begin again with every page, end in an error and not in a loop."""
    keys = [f"{number:04}" for number in range(50)]

    class FromTheStart(Store):
        def __call__(self, prefix: str, after: str, *, folders: bool = False) -> Page:
            return super().__call__(prefix, "", folders=folders)

    for store in (FromTheStart(keys), Store(["b", "a", *keys])):
        with pytest.raises(SourceUnavailable, match="order"):
            listed(store, concurrency=concurrency)


def test_a_store_that_promises_more_and_lists_nothing() -> None:
    """An error, and no endless loop."""

    def fetch(prefix: str, after: str, *, folders: bool = False) -> Page:
        return Page([], [], not folders, None)

    with pytest.raises(SourceUnavailable, match="nothing"):
        list(entries_in_order(fetch, prefix="", after="", concurrency=2))


def test_an_unexpected_error_of_a_lister_is_raised() -> None:
    """What nobody expected ends the listing too, and is not waited for."""

    def fetch(prefix: str, after: str, *, folders: bool = False) -> Page:
        if folders:
            return Page([], [], False, None)
        raise ZeroDivisionError

    with pytest.raises(SourceUnavailable, match="ZeroDivisionError"):
        list(entries_in_order(fetch, prefix="", after="", concurrency=3))


def test_listing_may_be_left_half_way() -> None:
    """Whoever wants no more of it leaves no thread behind that waits."""
    pages = entries_in_order(Store([f"{n:05}" for n in range(5000)]), prefix="", after="", concurrency=4)
    assert len(next(pages)) == 5
    pages.close()


@given(NAMES, NAMES)
def test_half_way_lies_between(one: str, other: str) -> None:
    """Between the two keys, of plain characters behind what they share; or nowhere."""
    low, high = sorted((one.encode(), other.encode()))
    found = half_way(low, high, b"")
    assert found is None or low < found < high
    assert found is None or found.decode()


def test_half_way_gets_there() -> None:
    """Among numbers it is near the middle, again and again."""
    low, high = b"img/0000000.jpg", b"img/9999999.jpg"
    cuts = [high]
    while (cut := half_way(low, cuts[-1], b"")) is not None and len(cuts) < 8:
        cuts.append(cut)
    assert len(cuts) > 4
    assert all(later < earlier for earlier, later in pairwise(cuts))
