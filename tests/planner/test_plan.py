"""A plan sends, covers or defers every due need, within the budgets, and says why."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from listener.planner import Budget, DirectoryLoad, Plan, PlanInput, plan
from listener.refresh import RefreshKind, split_reason
from tests.planner.budgets import DAY, of_kinds

URLS = [
    "https://a.example/",
    "https://a.example/x/",
    "https://a.example/x/y/",
    "https://a.example/x/z/",
    "https://a.example/x y/",
    "https://a.example/w//",
    "https://b.example/x/",
    "https://b.example:8443/x/q/",
]


def budgets(files: int, directories: int, all_params: int = 0) -> list[Budget]:
    """Make the budgets of a day, unspent."""
    return of_kinds(
        {RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories, RefreshKind.IGNORE_PARAMS: all_params}
    )


def load(url: str, due: int, **more: object) -> DirectoryLoad:
    """Make a load of one target."""
    return DirectoryLoad("cdn", url, due, **more)  # type: ignore[arg-type]


def test_files_while_they_are_affordable() -> None:
    """As long as files suffice no directory is refreshed and no weight is asked for."""

    def weights(url: str) -> int:
        raise AssertionError(url)

    made = plan(
        PlanInput(now=0.0, loads=[load(URLS[1], 7), load(URLS[2], 3)], budgets=budgets(1000, 5), weights=weights)
    )
    assert [(f.directory_url, f.take) for f in made.files] == [(URLS[1], 7), (URLS[2], 3)]
    assert (made.directories, made.deferred, made.wake_at) == ([], [], None)
    assert made.spent == {RefreshKind.FILE: 10, RefreshKind.DIRECTORY: 0}


def test_subtree_need_takes_its_own_directory() -> None:
    """A subtree need is covered by a refresh of exactly its directory, which evicts nothing unchanged."""
    made = plan(
        PlanInput(
            now=0.0,
            loads=[load(URLS[2], 0, subtree_due=True), load(URLS[1], 1)],
            budgets=budgets(10, 5),
            weights={URLS[1]: 80, URLS[2]: 50}.__getitem__,
        )
    )
    assert [(d.url, d.covers, d.collateral) for d in made.directories] == [(URLS[2], 1, 0)]
    assert [(f.directory_url, f.take) for f in made.files] == [(URLS[1], 1)]


def test_subtree_need_is_never_sent_as_files() -> None:
    """Without directory tokens a subtree need waits, with a reason, though file tokens abound."""
    made = plan(PlanInput(now=0.0, loads=[load(URLS[2], 0, subtree_due=True)], budgets=budgets(1000, 0)))
    assert (made.files, made.directories) == ([], [])
    assert [(d.directory_url, d.needs) for d in made.deferred] == [(URLS[2], 1)]
    assert made.deferred[0].reason.startswith("Deferred until 00:00 UTC: no directory quota left today. [")
    assert made.wake_at == DAY


def test_scarce_files_turn_into_the_cheapest_directory() -> None:
    """Where files do not suffice, the directory with least unchanged objects takes over, and the plan counts it."""
    weights = {URLS[0]: 1000, URLS[1]: 300, URLS[2]: 45, URLS[3]: 200}
    loads = [load(URLS[2], 40), load(URLS[3], 8)]
    made = plan(PlanInput(now=0.0, loads=loads, budgets=budgets(10, 2), weights=weights.__getitem__))
    assert [(d.url, d.covers, d.collateral, d.collateral_known) for d in made.directories] == [(URLS[2], 40, 5, True)]
    assert made.collateral == 5
    decision, numbers = split_reason(made.directories[0].reason)
    assert decision == "One directory refresh replaces 40 file refreshes, and evicts 5 unchanged objects."
    assert numbers.startswith("covers 40, evicts 5; 10 file and 1 directory refreshes left, ")


def test_blast_radius_is_kept() -> None:
    """No directory is refreshed that is not allowed, whatever it would save."""
    made = plan(
        PlanInput(
            now=0.0,
            loads=[load(URLS[2], 50), load(URLS[3], 50)],
            budgets=budgets(10, 1),
            weights=lambda _: 100,
            allowed=lambda url: url != URLS[1],
        )
    )
    assert [d.url for d in made.directories] in ([URLS[2]], [URLS[3]])
    assert sum(d.needs for d in made.deferred) == 40


def test_reserve_is_for_the_urgent() -> None:
    """The reserve stays unspent, unless the work is urgent."""
    loads = [load(URLS[1], 10)]
    asked = PlanInput(now=0.0, loads=loads, budgets=budgets(10, 0), reserve=0.25)
    assert plan(asked).spent[RefreshKind.FILE] == 7
    urgent = PlanInput(now=0.0, loads=loads, budgets=budgets(10, 0), reserve=0.25, urgent=True)
    assert plan(urgent).spent[RefreshKind.FILE] == 10


def test_deletions_count_no_object() -> None:
    """What was deleted is no longer among the objects, so it does not make a directory look emptier."""
    loads = [load(URLS[2], 40, objects=0)]
    made = plan(PlanInput(now=0.0, loads=loads, budgets=budgets(10, 2), weights=lambda _: 20))
    assert [d.collateral for d in made.directories] == [20]


def test_unknown_weight_errs_toward_files() -> None:
    """A directory of which nothing is known is taken for a large one: a few needs rather wait."""
    made = plan(PlanInput(now=0.0, loads=[load(URLS[2], 40)], budgets=budgets(10, 2)))
    assert made.directories == []
    many = plan(PlanInput(now=0.0, loads=[load(URLS[2], 4000)], budgets=budgets(10, 2)))
    assert [d.collateral_known for d in many.directories] == [False]


def test_unforced_directories_leave_what_needs_force() -> None:
    """Where directories only revalidate, needs that need force go as files though a directory covers the rest."""
    loads = [load(URLS[2], 400), load(URLS[2] + "k/", 4, forced_only=True)]
    made = plan(PlanInput(now=0.0, loads=loads, budgets=budgets(10, 2), weights=lambda _: 500, force=False))
    assert [d.url for d in made.directories] == [URLS[2]]
    assert [(f.directory_url, f.take) for f in made.files] == [(URLS[2] + "k/", 4)]


def test_all_params_needs_cost_their_own_tokens() -> None:
    """Needs of scope all-params are paid from the ignore-params budget, or covered by a directory."""
    loads = [load(URLS[2], 0, due_all_params=5)]
    made = plan(PlanInput(now=0.0, loads=loads, budgets=budgets(10, 2, all_params=5), weights=lambda _: 500))
    assert [(f.take, f.kind) for f in made.files] == [(5, RefreshKind.IGNORE_PARAMS)]
    short = plan(PlanInput(now=0.0, loads=loads, budgets=budgets(10, 2, all_params=1), weights=lambda _: 7))
    assert [d.url for d in short.directories] == [URLS[2]]


loads_drawn = st.lists(
    st.builds(
        DirectoryLoad,
        target=st.sampled_from(["cdn", "other"]),
        url=st.sampled_from(URLS),
        due=st.integers(0, 30),
        subtree_due=st.booleans(),
        oldest=st.floats(-1000, 0),
        forced_only=st.booleans(),
        due_all_params=st.integers(0, 3),
        priority=st.floats(0.1, 10),
        ttl_seconds=st.sampled_from([0.0, 300.0, 7200.0]),
        site=st.sampled_from(["", "www", "shop"]),
    ),
    max_size=9,
    unique_by=lambda item: (item.target, item.url),
)


def accounted(made: Plan, item: DirectoryLoad, *, force: bool) -> int:
    """Count how many of a load's needs a plan speaks of, those below a directory as covered."""
    key = (item.target, item.url)
    singles = sum(f.take for f in made.files if (f.target, f.directory_url) == key)
    waiting = sum(d.needs for d in made.deferred if (d.target, d.directory_url) == key)
    if any(d.target == item.target and item.url.startswith(d.url) for d in made.directories):
        if item.forced_only and not force:
            return singles + waiting + item.due_all_params + item.subtree_due
        assert singles == waiting == 0
        return item.due + item.due_all_params + item.subtree_due
    return singles + waiting


@settings(max_examples=1500, deadline=None)
@given(
    loads=loads_drawn,
    files=st.integers(0, 60),
    directories=st.integers(0, 4),
    reserve=st.sampled_from([0.0, 0.1, 0.5]),
    force=st.booleans(),
    weight=st.one_of(st.none(), st.integers(0, 200)),
)
def test_every_need_is_accounted_for_within_the_budgets(
    loads: list[DirectoryLoad], files: int, directories: int, reserve: float, force: bool, weight: int | None
) -> None:
    """Nothing due is forgotten or sent twice, and no kind is spent beyond its budget less the reserve."""
    made = plan(
        PlanInput(
            now=0.0,
            loads=loads,
            budgets=budgets(files, directories),
            reserve=reserve,
            force=force,
            weights=lambda _: weight,
            allowed=lambda url: url.count("/") > 3,
        )
    )
    for item in loads:
        assert accounted(made, item, force=force) == item.due + item.due_all_params + item.subtree_due
    assert made.spent.get(RefreshKind.FILE, 0) <= max(0, files - math.ceil(files * reserve))
    assert (
        made.spent[RefreshKind.DIRECTORY] <= max(0, directories - math.ceil(directories * reserve)) if loads else True
    )
    assert all(d.url.count("/") > 3 for d in made.directories)
    assert all(f.take > 0 and f.reason for f in made.files)
    assert all(d.needs > 0 and d.reason for d in made.deferred)
