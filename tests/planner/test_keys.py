"""The offline plan takes keys as the storage has them and finds the cheapest cover of them all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.allowances import Allowance, Month
from listener.planner import plan_keys
from listener.refresh import RefreshKind

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY


def above(key: str) -> list[str]:
    """Return the directories of a key, the root first."""
    return [key[:i] for i in [0, *(i + 1 for i, c in enumerate(key) if c == "/")]]


def cheapest(changes: list[str], objects: list[str], files: int, directories: int, depth: int) -> int | None:
    """Try every set of directories; return the least collateral that covers all, or ``None``."""
    candidates = sorted({d for key in changes for d in above(key) if d.count("/") >= depth})
    best: int | None = None
    for n in range(directories + 1):
        for chosen in itertools.combinations(candidates, n):
            rest = [key for key in changes if not key.startswith(chosen)] if chosen else changes
            if len(rest) > files:
                continue
            evicted = sum(key.startswith(chosen) and key not in changes for key in objects) if chosen else 0
            best = evicted if best is None else min(best, evicted)
    return best


keys = st.lists(st.sampled_from(["a", "b", "a b", "é"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=2000, deadline=None)
@given(
    objects=st.lists(keys, max_size=25, unique=True),
    data=st.data(),
    files=st.integers(0, 5),
    directories=st.integers(0, 3),
    depth=st.integers(0, 2),
)
def test_equals_brute_force(objects: list[str], data: st.DataObject, files: int, directories: int, depth: int) -> None:
    """If all changes can be covered they are, and no other way of doing so evicts less."""
    known = st.sampled_from(objects) if objects else keys
    changes = data.draw(st.lists(st.one_of(known, keys), max_size=8, unique=True))
    made = plan_keys(changes, objects, files=files, directories=directories, min_directory_depth=depth)
    best = cheapest(changes, objects, files, directories, depth)
    assert (made.deferred == []) is (best is not None)
    if best is not None:
        assert made.collateral == best
    assert made.spent["file"] <= files
    assert made.spent["directory"] <= directories
    covered = [r.key for r in made.refreshes if r.kind == "directory"]
    sent = [r.key for r in made.refreshes if r.kind == "file"]
    waiting = [d.key for d in made.deferred]
    assert sorted(sent + waiting + [k for k in changes if k.startswith(tuple(covered))]) == sorted(changes)


def test_a_subtree_key_is_refreshed_as_its_directory() -> None:
    """A changed key that ends with ``/`` is refreshed as a directory, at no collateral of its own."""
    made = plan_keys(["a/b/", "c.html"], ["a/b/1", "a/b/2", "a/x", "c.html"], files=5, directories=1)
    assert [(r.kind, r.key, r.covers, r.collateral) for r in made.refreshes] == [
        ("directory", "a/b/", 1, 0),
        ("file", "c.html", 1, 0),
    ]


def test_root_only_where_allowed() -> None:
    """The root is refreshed only with a depth of 0, and its key is empty."""
    changes = [f"{i}.html" for i in range(9)]
    assert plan_keys(changes, changes, files=1, directories=1).deferred != []
    made = plan_keys(changes, [*changes, "x"], files=1, directories=1, min_directory_depth=0)
    assert [(r.key, r.covers, r.collateral) for r in made.refreshes] == [("", 9, 1)]


@pytest.mark.parametrize("key", ["a\nb/c", "https://other/x", "//", "a//b", "?#%", "\udcff/x"])
def test_odd_keys_stay_as_they_are(key: str) -> None:
    """Keys are never parsed as URLs: whatever they hold, they come back unchanged."""
    made = plan_keys([key], [key], files=1, directories=1)
    assert [r.key for r in made.refreshes] == [key]


def test_shared_paths_are_bought_where_that_spares_enough() -> None:
    """Of two folders beyond the free paths one is taken whole, the other is bought file by file; so the sum says."""
    few, many = [f"a/{n}" for n in range(3)], [f"b/{n}" for n in range(40)]
    others = [*(f"a/old{n}" for n in range(80)), *(f"b/old{n}" for n in range(9))]
    paths = Allowance(
        name="paths", limit=100, window=Month(), costs=dict.fromkeys((FILE, DIRECTORY), 1), free=1, unit_dollars=0.005
    )
    made = plan_keys([*few, *many], [*few, *many, *others], files=0, directories=0, shared=paths)
    assert (made.spent, made.collateral, made.dollars) == ({"file": 3, "directory": 1}, 9, 0.015)
    assert made.deferred == []
    without = plan_keys([*few, *many], [*few, *many, *others], files=0, directories=0, shared=replace(paths, limit=1))
    assert (without.spent, without.dollars) == ({"file": 0, "directory": 1}, 0.0)
    assert "Deferred: no paths of the month are left" in without.deferred[0].reason
