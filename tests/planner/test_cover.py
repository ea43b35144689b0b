"""The cover is the cheapest there is: against brute force on small trees, against greedy on large ones."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.planner.cover import Bill, CoverTree, greedy_cover, solve
from listener.planner.prices import Currency, Prices, Tariff


def steps() -> st.SearchStrategy[Prices]:
    """Draw rising prices."""
    sizes = st.lists(st.integers(0, 6), min_size=0, max_size=3)
    prices = st.lists(st.integers(0, 12), min_size=3, max_size=3).map(sorted)
    return st.builds(lambda sizes, prices: Prices(zip(sizes, prices, strict=False)), sizes, prices)


WAITING = st.sampled_from([3.0, 13.0, math.inf])


def apart(files: Prices, directories: Prices, waiting: float = math.inf) -> Tariff:
    """Make a tariff in which files and directories have an allowance each."""
    return Tariff([Currency(files, file=1), Currency(directories, directory=1)], waiting)


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    """Draw a tariff: two allowances, one that both kinds share, several for one kind, or a kind that is unlimited."""
    shapes = [[(1, 0), (0, 1)], [(1, 1)], [(1, 1), (1, 0)], [(1, 2), (2, 1), (0, 1)], [(1, 0)], [(0, 1)], [(2, 3)], []]
    shape = draw(st.sampled_from(shapes))
    return Tariff([Currency(draw(steps()), *costs) for costs in shape], draw(WAITING))


@st.composite
def trees(draw: st.DrawFn) -> CoverTree:
    """Draw a small forest."""
    size = draw(st.integers(1, 8))
    parents = [draw(st.integers(-1, v - 1)) for v in range(size)]
    files = [draw(st.integers(0, 6)) for _ in range(size)]
    penalties = [draw(st.sampled_from([0.0, 0.0, 0.0, 3.0, 40.0])) for _ in range(size)]
    collateral = [draw(st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0, 30.0, math.inf])) for _ in range(size)]
    return CoverTree(parents, files, penalties, collateral)


def brute_force(bill: Bill) -> float:
    """Try every set of directories."""
    size = len(bill.tree.parents)
    best = math.inf
    for chosen in itertools.product([False, True], repeat=size):
        best = min(best, bill.cover(chosen).cost)
    return best


@settings(max_examples=6000, deadline=None)
@given(tree=trees(), tariff=tariffs())
def test_equals_brute_force(tree: CoverTree, tariff: Tariff) -> None:
    """Whatever the tree, the prices and who shares an allowance, no set of directories is cheaper than the cover."""
    bill = Bill(tree, tariff)
    cover = solve(tree, tariff)
    assert cover.cost == pytest.approx(brute_force(bill))
    if math.isfinite(cover.cost):
        chosen = [v in cover.directories for v in range(len(tree.parents))]
        assert bill.cover(chosen).cost == pytest.approx(cover.cost)
        assert bill.cover(chosen).files == cover.files
        assert bill.cover(chosen).directories == cover.directories
    assert cover.gap == 0


@settings(max_examples=2000, deadline=None)
@given(tariff=tariffs(), files=st.integers(0, 12), directories=st.integers(0, 6))
def test_what_is_sent_and_what_waits_costs_least(tariff: Tariff, files: int, directories: int) -> None:
    """Of the ways to send some files and leave the others none costs less than the tariff says."""
    costs = []
    for sent in range(files + 1):
        units = sum(one.prices.cost(one.file * sent + one.directory * directories) for one in tariff.currencies)
        costs.append(units + (tariff.waiting * (files - sent) if sent < files else 0.0))
    assert tariff.cost(files, directories) == pytest.approx(min(costs))
    if math.isfinite(min(costs)):
        assert costs[tariff.sent(files, directories)] == pytest.approx(min(costs))


@settings(max_examples=500, deadline=None)
@given(tree=trees(), tariff=tariffs())
def test_gap_is_honest_when_work_runs_out(tree: CoverTree, tariff: Tariff) -> None:
    """A cover found without the exact programme is within its stated gap of the best, and never worse than greedy."""
    bill = Bill(tree, tariff)
    cover = solve(tree, tariff, work_limit=0)
    if math.isfinite(cover.cost):
        assert cover.cost - cover.gap <= brute_force(bill) + 1e-4
    assert cover.cost <= greedy_cover(bill).cost


def large_tree(seed: int, size: int) -> CoverTree:
    """Make a tree as sites have them: bulk publishing in some directories, single edits elsewhere."""
    rng = random.Random(seed)
    parents = [-1] + [max(0, (v - 1) // rng.choice([6, 8, 10])) for v in range(1, size)]
    objects = [int(rng.paretovariate(1.1) * 5) % 3000 + 1 for _ in range(size)]
    files = [0] * size
    for _ in range(size // 300 + 5):
        v = rng.randrange(size)
        files[v] = max(1, int(objects[v] * rng.uniform(0.3, 1)))
    for _ in range(size // 100 + 5):
        v = rng.randrange(size)
        files[v] = min(objects[v], files[v] + 1)
    unchanged = [o - f for o, f in zip(objects, files, strict=True)]
    for v in range(size - 1, 0, -1):
        unchanged[parents[v]] += unchanged[v]
    return CoverTree(parents, files, [0.0] * size, [float(n) for n in unchanged])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens", [(50, 10), (300, 20), (20, 60)])
def test_never_worse_than_greedy_on_large_trees(seed: int, tokens: tuple[int, int]) -> None:
    """On trees of thousands of directories the cover costs no more than greedy, exact or not."""
    tree = large_tree(seed, 5_000)
    tariff = apart(Prices([(tokens[0], 0.0)]), Prices([(tokens[1], 0.0)]), 24.0)
    cover = solve(tree, tariff)
    assert cover.cost <= greedy_cover(Bill(tree, tariff)).cost
    assert cover.gap <= 0.05 * cover.cost


def test_hard_budget_that_nothing_fits_is_infinite() -> None:
    """Without tokens of either kind there is no cover, and that is said by an infinite cost."""
    tree = CoverTree([-1], [3], [0.0], [1.0])
    assert solve(tree, apart(Prices([(2, 0.0)]), Prices([]))).cost == math.inf


def test_costs_of_thousands_of_millions_have_a_cover() -> None:
    """Where leaving an object costs as much as all there are, sums are too large for small tolerances."""
    files, never = [33_512, 4_550, 40_095, 74_021, 55_585, 12_602], math.inf
    tree = CoverTree([-1, 0, 0, 1, 3, 0], files, [0.0] * 6, [never, never, 419.6, 148.2, 420.8, never])
    cover = solve(tree, apart(Prices([(40, 0.0)]), Prices([(2, 0.0)]), 1e9))
    assert cover.directories == [2, 3]


def test_falling_prices_are_refused() -> None:
    """Prices that fall would break the bound, so they are an error."""
    with pytest.raises(ValueError, match="must not fall"):
        Prices([(1, 2.0), (1, 1.0)])
