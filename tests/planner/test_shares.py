"""Shares and limits: no site spends another's guarantee, no window is exceeded, whatever is due."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from listener.allowances import Allowance, Day, Rolling
from listener.planner import Budget, DirectoryLoad, Limit, Plan, PlanInput, QuotaShare, plan
from listener.refresh import RefreshKind
from tests.planner.budgets import DAY, HOUR, of_kinds

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY
KINDS = (FILE, DIRECTORY)


def load(site: str, name: str, due: int, **more: object) -> DirectoryLoad:
    """Make a load of a site's own host."""
    return DirectoryLoad("cdn", f"https://{site}.example/{name}", due, site=site, **more)  # type: ignore[arg-type]


def spent(made: Plan, site: str, kind: RefreshKind) -> int:
    """Count what a plan spends for a site."""
    start = f"https://{site}.example/"
    if kind is DIRECTORY:
        return sum(d.url.startswith(start) for d in made.directories)
    return sum(f.take for f in made.files if f.directory_url.startswith(start))


def day(files: int, directories: int, *, spent_files: int = 0) -> list[Budget]:
    """Make budgets that come back after a day."""
    return of_kinds({FILE: files - spent_files, DIRECTORY: directories}, limits={FILE: files, DIRECTORY: directories})


def test_a_guarantee_is_kept_for_a_site_that_has_nothing_due() -> None:
    """A bulk import cannot spend what is guaranteed to a site that will publish in the evening."""
    shares = {("shop", FILE): QuotaShare(guaranteed=0.4)}
    made = plan(PlanInput(now=0.0, loads=[load("www", "a/", 500)], budgets=day(100, 0), shares=shares))
    assert spent(made, "www", FILE) == 60


def test_an_unused_guarantee_is_lent_before_the_reset() -> None:
    """Shortly before the reset tokens that nobody uses are lent, so that they do not lapse."""
    shares = {("shop", FILE): QuotaShare(guaranteed=0.4)}
    asked = PlanInput(now=DAY - HOUR / 60, loads=[load("www", "a/", 500)], budgets=day(100, 0), shares=shares)
    assert spent(plan(asked), "www", FILE) > 60


def test_a_guarantee_comes_first_when_its_site_returns() -> None:
    """A site with something due gets its guarantee though another's older backlog could take every token."""
    shares = {("shop", FILE): QuotaShare(guaranteed=0.4)}
    loads = [load("www", "a/", 500, oldest=-DAY), load("shop", "b/", 30)]
    left = day(100, 0, spent_files=60)
    made = plan(PlanInput(now=0.0, loads=loads, budgets=left, shares=shares, spent={("www", "file"): 60}))
    assert spent(made, "shop", FILE) == 30
    assert spent(made, "www", FILE) == 0


def test_the_greatest_share_is_never_exceeded() -> None:
    """A site stops at its greatest share of the day, with tokens left for others."""
    shares = {("www", FILE): QuotaShare(greatest=0.5)}
    loads, left = [load("www", "a/", 500)], day(100, 0, spent_files=20)
    made = plan(PlanInput(now=0.0, loads=loads, budgets=left, shares=shares, spent={("www", "file"): 20}))
    assert spent(made, "www", FILE) == 30
    assert sum(d.needs for d in made.deferred) == 470


def test_a_share_bounds_each_allowance_that_a_kind_spends() -> None:
    """What a site spent of a day says nothing of thirty days: the scarcer of its parts holds."""
    budgets = [
        Budget(Allowance(name="day", limit=100, window=Day(), costs={FILE: 1}), 100, DAY),
        Budget(Allowance(name="month", limit=200, window=Rolling(30), costs={FILE: 1}), 150, DAY),
    ]
    shares = {("www", FILE): QuotaShare(greatest=0.5)}
    for spent_of, expected in (({"month": 90}, 10), ({"day": 30, "month": 50}, 20), ({"day": 30, "month": 85}, 15)):
        given = {("www", name): units for name, units in spent_of.items()}
        loads = [load("www", "a/", 500)]
        made = plan(PlanInput(now=0.0, loads=loads, budgets=budgets, kinds={FILE}, shares=shares, spent=given))
        assert spent(made, "www", FILE) == expected


def test_a_greatest_share_is_lifted_before_the_reset_for_whom_nobody_waits() -> None:
    """Tokens that would lapse go to a site beyond its greatest part, unless another site wants them."""
    shares = {("www", FILE): QuotaShare(greatest=0.5)}
    asked = PlanInput(now=DAY - 1.0, loads=[load("www", "a/", 500)], budgets=day(100, 0), shares=shares)
    assert spent(plan(asked), "www", FILE) > 90
    both = plan(replace(asked, loads=[load("www", "a/", 500), load("shop", "b/", 500)]))
    assert (spent(both, "www", FILE), spent(both, "shop", FILE)) == (50, 50)


@settings(max_examples=600, deadline=None)
@given(
    due=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 120), max_size=5),
    guaranteed=st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 0.16), max_size=6),
    greatest=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.2, 1.0), max_size=6),
    files=st.integers(0, 200),
    directories=st.integers(0, 5),
    now=st.floats(0, DAY - 1),
)
def test_no_site_gets_less_than_its_guarantee_while_it_has_something_due(
    due: dict[str, int],
    guaranteed: dict[str, float],
    greatest: dict[str, float],
    files: int,
    directories: int,
    now: float,
) -> None:
    """Each site's due needs are sent, covered, or it has used its guarantee; nobody exceeds a greatest share."""
    shares = {
        (site, kind): QuotaShare(guaranteed.get(site, 0.0), max(greatest.get(site, 1.0), guaranteed.get(site, 0.0)))
        for site in "abcdef"
        for kind in KINDS
    }
    made = plan(
        PlanInput(
            now=now,
            loads=[load(site, "x/", n) for site, n in due.items()],
            budgets=day(files, directories),
            shares=shares,
            weights=lambda _: 150,
        )
    )
    for site, n in due.items():
        sent, whole = spent(made, site, FILE), spent(made, site, DIRECTORY)
        assert whole or sent >= min(n, int(guaranteed.get(site, 0.0) * files))
        if now <= DAY - HOUR / 4 or len(due) > 1:
            assert sent <= int(shares[site, FILE].greatest * files)
            assert whole <= int(shares[site, DIRECTORY].greatest * directories)
    assert made.spent.get(FILE, 0) <= files
    assert made.spent.get(DIRECTORY, 0) <= directories
    idle = sum(int(part * files * min(1.0, (DAY - now) / HOUR * 4)) for site, part in guaranteed.items()
               if site not in due)  # fmt: skip
    assert made.spent.get(FILE, 0) <= max(0, files - idle) or now > DAY - HOUR / 4


def test_a_minute_limit_of_one_domain_holds_that_domain_back() -> None:
    """Per-minute limits bound what goes now, by host, and the plan wakes when the minute is over."""
    limits = [Limit("this minute's URLs of www", left=40, costs={FILE: 1.0}, host="https://www.example/", resets_at=30)]
    loads = [load("www", "a/", 100), load("shop", "b/", 100)]
    made = plan(PlanInput(now=0.0, loads=loads, budgets=day(10_000, 0), limits=limits))
    assert (spent(made, "www", FILE), spent(made, "shop", FILE)) == (40, 100)
    assert made.wake_at == 30
    assert "Deferred until 00:00 UTC: waiting for this minute's URLs of www." in made.deferred[0].reason


def test_money_is_one_more_limit() -> None:
    """Different kinds may take different amounts of one limit, such as a sum of money."""
    limits = [Limit("the month's budget", left=1.0, costs={FILE: 0.005, DIRECTORY: 0.5})]
    made = plan(PlanInput(now=0.0, loads=[load("www", "a/", 900)], budgets=day(10_000, 0), limits=limits))
    assert spent(made, "www", FILE) == 200


def test_slots_in_flight_bound_directories() -> None:
    """CloudFront's rule: so many wildcard paths in progress; without a slot the directory waits for a task to end."""
    asked = PlanInput(
        now=0.0, loads=[load("www", "a/", 0, subtree_due=True)], budgets=day(100, 10), weights=lambda _: 9,
        limits=[Limit("a wildcard slot", left=0, costs={DIRECTORY: 1.0})],
    )  # fmt: skip
    made = plan(asked)
    assert made.directories == []
    assert sum(d.needs for d in made.deferred) == 1


def test_evictions_a_minute_are_bounded_for_the_origins_sake() -> None:
    """A second large directory waits a minute, its files with it; one above the bound goes in a fresh minute."""
    loads = [load("www", "a/", 5000, objects=5000), load("www", "b/", 5000, objects=5000)]
    below = {"https://www.example/": 30_000}
    below |= {"https://www.example/a/": 5900, "https://www.example/b/": 5900}
    limit = Limit("evictions a minute of the origin", left=1000, eviction_cost=1.0, resets_at=60.0, whole=True)
    asked = PlanInput(now=0.0, loads=loads, budgets=day(10, 10), weights=below.get, limits=[limit])
    first = plan(asked)
    assert len(first.directories) == 1
    assert first.files == []
    assert first.wake_at == 60.0
    none_left = plan(PlanInput(now=0.0, loads=loads, budgets=day(10, 10), weights=below.get,
                               limits=[limit._replace(left=100, whole=False)]))  # fmt: skip
    assert none_left.directories == []
    huge = plan(PlanInput(now=0.0, loads=loads[:1], budgets=day(10, 10), weights=lambda _: 9000, limits=[limit]))
    assert len(huge.directories) == 1


def test_a_host_is_a_tree_of_its_own() -> None:
    """One plan covers a forest of hosts: no directory reaches over to another host or target."""
    loads = [load("a", "x/", 300), load("b", "x/", 300), load("b", "y/", 2)]
    weights = {"https://a.example/x/": 310, "https://b.example/x/": 305}.get
    made = plan(PlanInput(now=0.0, loads=loads, budgets=day(20, 10), weights=weights))
    assert sorted(d.url for d in made.directories) == ["https://a.example/x/", "https://b.example/x/"]
    assert spent(made, "b", FILE) == 2
