"""Which needs of an inner layer an outer one waits for, on both databases."""

from __future__ import annotations

import pytest

from listener.refresh import Scope
from listener.store import NeedInput
from listener.store.layering import Inner, after_layers, is_unsettled
from listener.store.needs import Snapshot
from tests.store.steps import BASE, Bench

URL = f"{BASE}d/a.html"


@pytest.mark.parametrize("files_only", [False, True])
@pytest.mark.parametrize("scope", list(Scope))
async def test_which_needs_of_an_inner_layer_are_waited_for(bench: Bench, scope: Scope, files_only: bool) -> None:
    """All but prefetches; of a layer that refreshes files only no others than files."""
    inner = Inner(files_only=["inner"]) if files_only else Inner(["inner"])
    url = f"{BASE}d/" if scope is Scope.SUBTREE else URL
    await bench.store.request([NeedInput("inner", url, scope)])
    await bench.store.request([NeedInput("outer", one, Scope.EXACT) for one in (url, f"{BASE}d/b.html")])
    waits = scope is Scope.EXACT or not (files_only or scope is Scope.PREFETCH)

    def check(snapshot: Snapshot) -> None:
        (load,) = snapshot.loads(targets=["outer"])
        left, behind = snapshot.run(after_layers, load, inner)
        assert (left.exact, behind) == ((1, 1) if waits else (2, 0))
        assert len(snapshot.due_rows(left, Scope.EXACT, 10)) == left.exact
        assert snapshot.run(is_unsettled, inner, url, below=False) is waits
        assert snapshot.run(is_unsettled, inner, BASE, below=True) is waits
        assert not snapshot.run(is_unsettled, inner, f"{BASE}d/b.html", below=False)

    await bench.store.read(check)
