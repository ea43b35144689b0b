"""A backfill's own part of the quota: never more of it, also while a daemon runs; the rest waits and goes on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from listener.allowances import ALIBABA_DAY, DAY_SECONDS
from listener.backfill import Backfill, Mode, opened, share
from listener.change import Change, ChangeKind
from listener.clock import SystemClock
from listener.contracts import Target
from listener.pipeline.accounts import accounts_of
from listener.pipeline.layers import Layers
from listener.pipeline.planning_round import ActiveOverrides, PlanningRound
from listener.pipeline.sender import Queued
from listener.planner import Arrivals
from listener.plugins import load_targets
from listener.refresh import QuotaReading, RefreshKind
from listener.router.routing import Sites
from listener.settings import Settings, load_settings
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing import TreeListing
from listener.store import Store, open_store
from tests.stand import KEYS, Stand, a_stand, until

pytestmark = pytest.mark.looptime(False)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A stand with a quota of 40 URLs and 5 directories."""
    with a_stand(tmp_path / "small", quota="40,5") as stand:
        for name, value in {**KEYS, "LISTENER_CONFIG": str(stand.config)}.items():
            monkeypatch.setenv(name, value)
        yield stand


def fill(stand: Stand, count: int, *, folder: str = "") -> list[str]:
    """Put so many files at the origin; return their URLs."""
    for number in range(count):
        stand.write(f"{folder}{number:03}.html")
    return [stand.url(f"{folder}{number:03}.html") for number in range(count)]


def test_a_share_is_not_exceeded(small: Stand, command: Command) -> None:
    """A quarter of 40 is 10, in the order of keys, exit status 3; the same command again sends nothing more today."""
    small.configure(target="quota = { file = 40, directory = 0 }")
    urls = fill(small, 30)
    status, out, _ = command("backfill", "--quota-share", "0.25", "--yes", "--json")
    reported = json.loads(out)
    assert (status, reported["listed"], reported["finished"]) == (3, 10, False)
    assert "share" in reported["stopped"]
    assert sorted(small.paths()) == urls[:10]
    assert reported["plan"]["refreshes"]["file"] <= 10
    status, out, _ = command("backfill", "--quota-share", "0.25", "--yes")
    assert (status, "Continue" in out) == (3, True)
    assert sorted(small.paths()) == urls[:10]
    assert command("backfill", "--quota-share", "0.5", "--yes")[0] == 3
    assert sorted(small.paths()) == urls[:20], "what was sent is not sent again"


def test_a_share_and_live_changes_at_once(tmp_path: Path) -> None:
    """A daemon and a backfill on one state file: live changes are refreshed as ever, the share is kept."""
    with a_stand(tmp_path / "both", quota="1000,0") as stand:
        urls = fill(stand, 40)
        with stand.daemon():
            process = stand.command("backfill", "--quota-share", "0.02", "--yes", "--json")
            for number in range(15):
                stand.write(f"live-{number}.html")
            out, err = process.communicate(timeout=60)
            assert process.returncode == 3, err
            reported = json.loads(out)
            assert (reported["sent_by"], reported["listed"]) == ("daemon", 20)
            live = {stand.url(f"live-{number}.html") for number in range(15)}
            until(lambda: live | set(urls[:20]) <= set(stand.paths()))
        assert set(stand.paths()) - live == set(urls[:20])
        assert len(stand.paths()) == 35


def test_while_a_daemon_runs_half_is_the_default(small: Stand, command: Command) -> None:
    """The dry run says so; without a daemon it is all. What the daemon sends is waited for with `wait`."""
    fill(small, 3)
    assert json.loads(command("backfill", "--dry-run", "--json")[1])["quota_share"] is None
    with small.daemon():
        assert json.loads(command("backfill", "--dry-run", "--json")[1])["quota_share"] == 0.5
        assert "at most 50%" in command("backfill", "--dry-run")[1]
        assert "cdn-listener wait returns when they are fresh" in command("backfill", "--yes", "--wait")[1]


def test_directories_of_a_share(small: Stand, command: Command) -> None:
    """What the planner would refresh as a directory costs one token of that share, and is sent as that."""
    small.configure(target="quota = { file = 40, directory = 5 }")
    fill(small, 60, folder="big/")
    single = fill(small, 3, folder="few/")
    status, out, err = command("backfill", "--quota-share", "0.5", "--yes", "--wait", "--json")
    assert status == 0, out + err
    reported = json.loads(out)
    assert (reported["listed"], reported["finished"], reported["pending"]) == (63, True, 0)
    assert sorted(small.paths()) == sorted([f"{small.edge}/big/", *single])
    assert json.loads(command("backfill", "--mode", "audit")[1])["same"] == 63, "the index knows what lies below"


async def test_a_new_day_has_a_new_share(small: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are booked by the day; a run of the next day goes on where the last one ended."""
    small.configure(target="quota = { file = 40, directory = 0 }")
    fill(small, 30)
    settings = load_settings(small.config, {})
    listing = TreeListing("www", FilesystemSettings(path=small.tree))

    class Clock:
        ahead = 0.0

        def now(self) -> float:
            return 1_800_000_000.0 + self.ahead

    clock = Clock()
    async with open_store(settings.store.url, owner=True) as owner:
        for listed in (8, 16, 24):
            job = Backfill(settings, load_targets(settings), listing, [Mode.REFRESH], share=0.2, clock=clock)
            plan = await job.plan(owner, now=clock.now())
            async with opened(settings, load_targets(settings)) as store:
                outcome = await job.run(store, plan, follow=False)
            assert (outcome.listed, outcome.put_off) == (listed, True)
            assert (await owner.counts()).pending == listed
            clock.ahead += DAY_SECONDS


async def test_a_queue_without_progress_is_reported(small: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody takes what waits already, it ends and says so, and does not wait for ever."""
    monkeypatch.setattr(share, "MOST_WAITING", 1)
    monkeypatch.setattr(share, "LONGEST_WAIT_SECONDS", 0.3)
    fill(small, 5)
    settings = load_settings(small.config, {})
    listing = TreeListing("www", FilesystemSettings(path=small.tree))
    async with open_store(settings.store.url, owner=True), opened(settings, load_targets(settings)) as store:
        first = await Backfill(settings, {}, listing, [Mode.REFRESH]).run(store, None, follow=False)
        assert first.finished
        job = Backfill(settings, load_targets(settings), listing, [Mode.REFRESH], share=0.9)
        outcome = await job.run(store, None, follow=False)
    assert "none was sent" in outcome.stopped


async def test_a_daemon_that_is_gone_is_noticed(small: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for its needs to be sent the daemon dies: it ends within seconds, says so, and exits with 3."""
    monkeypatch.setattr(share, "MOST_WAITING", 1)
    monkeypatch.setattr(share, "OWNERLESS_SECONDS", 0.3)
    fill(small, 5)
    settings = load_settings(small.config, {})
    listing = TreeListing("www", FilesystemSettings(path=small.tree))
    daemon = open_store(settings.store.url, owner=True)
    async with opened(settings, load_targets(settings)) as store:
        assert not (await Backfill(settings, {}, listing, [Mode.REFRESH]).run(store, None, follow=False)).abandoned
        job = Backfill(settings, load_targets(settings), listing, [Mode.REFRESH], share=0.9)
        running = asyncio.create_task(job.run(store, None, follow=False))
        await asyncio.sleep(0.5)  # longer than it would wait without one
        assert not running.done()
        await daemon.close()
        outcome = await running
    assert "daemon that sent them is gone" in outcome.stopped
    assert outcome.abandoned
    assert outcome.put_off


def test_the_most_wanted_first(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefetches in the order of an access log, as many as today pays for; the rest is not asked for yet."""
    with a_stand(tmp_path / "few", quota="40,5,4") as stand:
        for name, value in {**KEYS, "LISTENER_CONFIG": str(stand.config)}.items():
            monkeypatch.setenv(name, value)
        fill(stand, 10)
        asked = ("007", "003", "007")
        lines = [f'1.2.3.4 - - [1/Jan/2026] "GET /{name}.html?x=1 HTTP/1.1" 200 5 "-" "agent"' for name in asked]
        lines += ['1.2.3.4 - - [x] "GET /009.html HTTP/1.1" 404 5', "5 005.html", "not a line", "1 gone.html"]
        (tmp_path / "log").write_text("\n".join(lines))
        words = ("backfill", "--popularity", str(tmp_path / "log"))
        status, out, err = command(*words, "--mode", "prefetch", "--yes", "--json", "--wait")
        assert status == 3, err
        reported = json.loads(out)
        assert reported["listed"] == 4
        assert sorted(stand.paths()) == sorted(stand.url(f"{name}.html") for name in ("000", "003", "005", "007"))
        assert command(*words, "--yes")[0] == 2, "only for prefetches"
        (tmp_path / "log").write_text("nothing\nof this\n")
        assert command(*words, "--mode", "prefetch", "--yes")[0] == 2


async def test_two_backfills_share_one_share(small: Stand) -> None:
    """Both choose from the same tokens at once; together they take no more than one of them may, and each goes on."""
    small.configure(target="quota = { file = 40, directory = 0 }")
    settings = load_settings(small.config, {})
    keys = [[f"{folder}/{number}.html" for number in range(12)] for folder in "ab"]
    portions = [[Change("www", key, ChangeKind.CONTENT) for key in part] for part in keys]
    both = asyncio.Barrier(2)

    class Together(share.Share):
        """Chooses only when the other has looked, too."""

        async def _of_today(self) -> share.ShareBudget:
            first = self._budget is None and not hasattr(self, "looked")
            self.looked = True
            budget = await super()._of_today()
            if first:
                await both.wait()
            return budget

    targets, sites = load_targets(settings), Sites(settings.sites)
    async with open_store(settings.store.url) as store:
        sharing = [
            Together(
                store,
                share.Chooser("www", sites, targets, prefetch=False, refresh=True),
                share=0.5,
                reserve=0.0,
                clock=SystemClock(),
            )
            for _ in portions
        ]
        admitted = await asyncio.gather(*(one.admit(part) for one, part in zip(sharing, portions, strict=True)))
        assert sorted(one.taken for one in admitted) == [8, 12]
        assert sorted(bool(one.reason) for one in sharing) == [False, True]


def test_a_dry_run_is_the_run(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a new state file and with the live quota far below the configured one: what was shown is what is sent."""
    with a_stand(tmp_path / "few", quota="60,5,4") as stand:
        for name, value in {**KEYS, "LISTENER_CONFIG": str(stand.config)}.items():
            monkeypatch.setenv(name, value)
        for number in range(120):
            path = stand.tree / f"d{number % 8}" / f"{number}.html"
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        shown = json.loads(command("backfill", "--json", "--dry-run")[1])
        assert shown["quota_assumed"] == ""
        assert command("backfill", "--json", "--yes")[0] == 3
        sent = Counter("directory" if url.endswith("/") else "file" for url in stand.paths())
    assert {kind: count for kind, count in shown["refreshes"].items() if count} == sent


class Quota:
    """A target of the project's own, whose live quota is what a test says; nothing is sent to it."""

    def __init__(self, target: Target, quota: Mapping[RefreshKind, int]) -> None:
        self._target = target
        self._live = quota

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        return {kind.value: QuotaReading(60, left) for kind, left in self._live.items()}


async def reserved(store: Store, settings: Settings, targets: Mapping[str, Target]) -> Counter[str]:
    """Plan and settle until nothing more is reserved; return the attempts by kind."""
    (account,) = accounts_of(targets).values()
    account.arrivals = Arrivals()
    made: Counter[str] = Counter()
    await store.promote_due()
    while True:
        now = store.clock.now()
        planning = PlanningRound(
            account=account,
            sites=(sites := Sites(settings.sites)),
            layers=Layers(sites, account.targets, known=account.targets),
            settings=settings.planner,
            overrides=ActiveOverrides(()),
            queued=Queued(),
            now=now,
            open_at=now,
        )
        held = await store.hold(
            (await store.read(planning.run)).wanted, account=account.name, allowances=account.allowances
        )
        if not held:
            return made
        made.update(one.kind.value for one in held)
        ids = [one.id for one in held]
        await store.mark_sending(ids)
        await store.accept(dict.fromkeys(ids, "task"), next_look_at=now)
        await store.complete(held)  # no prefetch goes before the refresh of the same URL is complete
        for one in held:
            if one.kind is RefreshKind.DIRECTORY:
                await store.sweep(one)


@pytest.mark.parametrize("mode", [[Mode.REFRESH], [Mode.REFRESH, Mode.PREFETCH]], ids=["refresh", "with prefetch"])
@settings_of(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.sampled_from([None, 0.1, 0.25, 0.5, 0.9, 1.0]),
    files=st.integers(0, 60),
    directories=st.integers(0, 6),
    tree=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 40)), max_size=60),
    reserve=st.sampled_from([0.0, 0.1]),
)
def test_any_dry_run_is_the_run(
    tmp_path_factory: pytest.TempPathFactory,
    mode: list[Mode],
    part: float | None,
    files: int,
    directories: int,
    tree: list[tuple[int, int, int]],
    reserve: float,
) -> None:
    """Whatever the quota, the tree and the share, or without one: what is shown is what is requested, by kind."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "www").mkdir()
    for top, below, name in tree:
        path = folder / "www" / f"d{top}" / f"e{below}" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    given_settings = Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{folder}/s.db"},
            "sources": {"www": {"type": "filesystem", "path": str(folder / "www")}},
            "targets": {"cdn": {"type": "alibaba-cdn", "quota": {"file": 60, "directory": 6, "prefetch": 60}}},
            "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
            "planner": {"reserve": reserve},
            "coalescer": {"quiet_seconds": 0},
        }
    )
    left = {RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories, RefreshKind.PREFETCH: 60}

    class Noon:
        at = float(ALIBABA_DAY.start(1_800_000_000.0) + 43_200)

        def now(self) -> float:
            return self.at

    clock = Noon()

    async def both() -> tuple[dict[str, int], Counter[str]]:
        plain = load_targets(given_settings)
        targets: dict[str, Any] = {name: Quota(target, left) for name, target in plain.items()}
        listing = TreeListing("www", FilesystemSettings(path=folder / "www"))
        async with open_store(given_settings.store.url, owner=True, clock=clock) as store:
            await store.correct_ledger(
                plain["cdn"].account,
                plain["cdn"].allowances,
                {kind.value: QuotaReading(60, units) for kind, units in left.items()},
            )
            job = Backfill(given_settings, targets, listing, mode, share=part, clock=clock)
            plan = await job.plan(store, now=clock.now())
            assert await job._only_record(store, job._feed(store, plan)) is False
            clock.at += 3600.0 if part else 1.0  # without a share the hour of the day counts
            return plan.cost.refreshes, await reserved(store, given_settings, plain)

    shown, sent = asyncio.run(both())
    assert {kind: count for kind, count in shown.items() if count} == sent
    assert part is None or all(count <= part * 60 for count in sent.values())


@pytest.mark.parametrize(
    ("quota", "part", "folders"),
    [("60,10", 0.5, 40), ("60,10", 0.25, 4), ("300,5", 0.5, 40), ("40,0", 0.5, 8)],
)
def test_a_dry_run_of_a_share_is_the_run(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, quota: str, part: float, folders: int
) -> None:
    """Against an API: the requests that arrive are those that the dry run showed, within the share of each kind."""
    with a_stand(tmp_path / "few", quota=quota) as stand:
        for name, value in {**KEYS, "LISTENER_CONFIG": str(stand.config)}.items():
            monkeypatch.setenv(name, value)
        for number in range(160):
            stand.write(f"d{number % folders:02}/{number}.html")
        ways = ("backfill", "--json", "--quota-share", str(part))
        shown = json.loads(command(*ways, "--dry-run")[1])
        assert shown["quota_assumed"] == ""
        command(*ways, "--yes")
        sent = Counter("directory" if url.endswith("/") else "file" for url in stand.paths())
    assert {kind: count for kind, count in shown["refreshes"].items() if count} == sent
    files, directories = map(int, quota.split(","))
    assert sent["file"] <= files * part
    assert sent["directory"] <= directories * part
