"""A row of an index in PostgreSQL has a greatest length: a longer key is a dead letter, and costs no other change."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from listener.store import open_store
from listener.store.batches import Batch
from listener.store.postgres.access import PostgresDriver
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.store.databases import prepare_schema
from tests.store.steps import content, route

pytestmark = pytest.mark.looptime(False)
LONGEST = PostgresDriver.longest_path_bytes or 0


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    """A database of its own, with an empty schema."""
    with postgres.database() as name:
        prepare_schema(postgres.url(name))
        yield postgres.url(name)


def letters(number: int) -> str:
    """Return letters that PostgreSQL cannot compress below the limit."""
    chance = random.Random(number)
    return "".join(
        chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") for _ in range(number)
    )


@pytest.mark.parametrize(
    "key",
    [letters(4_000), letters(4_000) + "/a", "d/" + letters(LONGEST - 1), "\u00e9" * 1_000, "\udcff" * 1_000],
    ids=["name", "directory", "one byte more", "letters of two bytes", "no text"],
)
async def test_a_key_that_is_too_long_is_a_dead_letter(url: str, key: str) -> None:
    """The other changes of its batch are recorded; the path of a URL counts, percent-encoded."""
    async with open_store(url, options=StoreOptions(instance="a")) as store:
        (recorded,) = await store.record([Batch([content("a.html"), content(key), content("b.html")])], route)
        assert recorded.needs == 2
        (letter,) = await store.dead_letters()
        assert f"the database takes {LONGEST}" in letter.reason


async def test_the_longest_keys_are_recorded(url: str) -> None:
    """In a directory, as a directory, and where every byte is encoded in a URL."""
    keys = ["d/" + letters(LONGEST - 2), letters(LONGEST - 2) + "/a", "\u00e9" * (LONGEST // 6)]
    async with open_store(url, options=StoreOptions(instance="a")) as store:
        (recorded,) = await store.record([Batch([content(key) for key in keys])], route)
        assert (recorded.needs, recorded.rejected) == (len(keys), [])
