"""The client and the emulator, each written from the vendor's pages, understand each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from listener.alibaba.signature import Credentials
from listener.contracts import CheckState
from listener.emulator import DcdnEmulator, Emulator, EmulatorSettings
from listener.errors import BatchRejected, Misconfigured, OutcomeUnknown, QuotaExhausted, Throttled
from listener.refresh import RefreshKind, TaskState
from listener.targets.alibaba_cdn import AlibabaCdn, AlibabaDcdn
from tests.targets.alibaba_cdn.recording_api import NOW, StandingClock

FILE, DIRECTORY, PREFETCH = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH


DCDN: dict[str, Any] = {"emulate": DcdnEmulator, "target": AlibabaDcdn}


@dataclass
class Pair:
    """An emulator and a target that speaks to it, on one clock."""

    emulator: Emulator
    target: AlibabaCdn
    clock: StandingClock

    def url(self, path: str) -> str:
        """Return a URL of the emulator's edge."""
        return self.emulator.edge_url + path


MakePair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def make_pair(tmp_path: Path, make_target: Callable[..., AlibabaCdn]) -> AsyncIterator[MakePair]:
    """Start emulators with faults by name, and a target for each."""
    running: list[Emulator] = []

    async def make(
        *faults: str, emulate: type[Emulator] = Emulator, target: type[AlibabaCdn] = AlibabaCdn, **settings: Any
    ) -> Pair:
        clock = StandingClock()
        emulator = emulate(
            EmulatorSettings(
                origin=str(tmp_path),
                credentials=Credentials("testid", "testsecret"),
                api_port=0,
                edge_port=0,
                faults=tuple(map(emulate.table.parse, faults)),
                clock=clock,
            )
        )
        running.append(await emulator.__aenter__())
        return Pair(emulator, make_target(make=target, endpoint=emulator.api_url, clock=clock, **settings), clock)

    yield make
    for emulator in running:
        await emulator.__aexit__(None, None, None)


@pytest.mark.parametrize("signature", ["acs3-hmac-sha256", "hmac-sha1"])
@pytest.mark.parametrize("service", ["2018-05-10", "2014-11-11", "dcdn"])
@pytest.mark.parametrize(("kind", "path"), [(FILE, "/a%20b/%E4%B8%AD?x=1"), (DIRECTORY, "/d/"), (PREFETCH, "/a")])
async def test_a_refresh_is_accepted_followed_and_found(
    make_pair: MakePair, signature: str, service: str, kind: RefreshKind, path: str
) -> None:
    """Submitted, listed by id and by URL, complete in the end, and counted against the quota."""
    pair = await make_pair(signature=signature, **(DCDN if service == "dcdn" else {"api_version": service}))
    before = (await pair.target.read_quota())[kind.value]
    receipt = await pair.target.submit(kind, [pair.url(path)], force=True)
    pair.clock.time += 5
    (task,) = await pair.target.tasks(receipt.task_ids)
    assert (task.url, task.kind, task.state) == (pair.url(path), kind, TaskState.COMPLETE)
    (found,) = await pair.target.find_tasks(kind, pair.url(path), since=NOW - 10, until=NOW + 10)
    assert found.task_id in receipt.task_ids
    assert (await pair.target.read_quota())[kind.value].remaining == before.remaining - 1
    assert await pair.target.tasks(["424242"]) == []


@pytest.mark.parametrize("service", [{}, DCDN], ids=["cdn", "dcdn"])
@pytest.mark.parametrize(("fault", "count"), [("reset:1", 0), ("accept-then-reset:1", 1), ("accept-then-timeout:1", 1)])
async def test_an_unknown_outcome_is_resolved_by_asking(
    make_pair: MakePair, fault: str, count: int, service: dict[str, Any]
) -> None:
    """The task list reports what the broken connection could not, and nothing was sent twice."""
    pair = await make_pair(f"{fault},action=Refresh{'Dcdn' if service else ''}ObjectCaches", **service)
    with pytest.raises(OutcomeUnknown):
        await pair.target.submit(FILE, [pair.url("/a")], force=False)
    found = await pair.target.find_tasks(FILE, pair.url("/a"), since=NOW - 60, until=NOW + 60)
    assert len(found) == count


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("error500:1", OutcomeUnknown),
        ("throttle:9", Throttled),
        ("quota:1", QuotaExhausted),
        ("malformed:bad", BatchRejected),
        ("error:Forbidden.RAM:1", Misconfigured),
    ],
)
async def test_each_fault_ends_as_its_remedy(make_pair: MakePair, fault: str, error: type[Exception]) -> None:
    """What the emulator is ordered to answer arrives as the error to act on."""
    pair = await make_pair(fault)
    with pytest.raises(error):
        await pair.target.submit(FILE, [pair.url("/fine"), pair.url("/bad")], force=False)


async def test_a_foreign_domain_is_named(make_pair: MakePair) -> None:
    """One of two domains does not belong to the account: the error says which."""
    pair = await make_pair("domain-not-found:other.example.com")
    with pytest.raises(BatchRejected) as caught:
        await pair.target.submit(FILE, [pair.url("/a"), "http://other.example.com/a"], force=False)
    assert caught.value.domain == "other.example.com"


async def test_a_wrong_clock_is_measured(make_pair: MakePair) -> None:
    """Twenty minutes off: refused, and the message says by how much."""
    pair = await make_pair("clock-skew:1200")
    with pytest.raises(Misconfigured, match="1200 s behind"):
        await pair.target.submit(FILE, [pair.url("/a")], force=False)


@pytest.mark.parametrize("service", [{}, DCDN], ids=["cdn", "dcdn"])
async def test_check_passes_against_the_emulator(make_pair: MakePair, service: dict[str, Any]) -> None:
    """A rehearsal passes its own check."""
    pair = await make_pair(**service)
    checks = await pair.target.check()
    assert [check.message for check in checks if check.state is not CheckState.OK] == []


async def test_a_wrong_secret_is_reported(make_pair: MakePair, make_target: Callable[..., AlibabaCdn]) -> None:
    """The remedy names the variables, and the message holds no signing material."""
    pair = await make_pair()
    environment = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "wrong"}
    target = make_target(endpoint=pair.emulator.api_url, clock=pair.clock, environment=environment)
    with pytest.raises(Misconfigured, match="SignatureDoesNotMatch") as caught:
        await target.submit(FILE, [pair.url("/a")], force=False)
    assert "ALIBABA_CLOUD_ACCESS_KEY_SECRET" in caught.value.hint
    assert "x-acs" not in str(caught.value)


async def test_a_wrong_key_of_a_second_account_names_its_variables(make_pair: MakePair) -> None:
    """Not those of the first."""
    keys = {"SECOND_ACCESS_KEY_ID": "testid", "SECOND_ACCESS_KEY_SECRET": "wrong"}
    pair = await make_pair(environment=keys, environment_prefix="SECOND")
    with pytest.raises(Misconfigured) as caught:
        await pair.target.submit(FILE, [pair.url("/a")], force=False)
    assert "SECOND_ACCESS_KEY_SECRET" in caught.value.hint and "ALIBABA" not in caught.value.hint


async def test_a_missing_permission_names_the_actions_of_the_service(make_pair: MakePair) -> None:
    """DCDN has actions of its own to grant."""
    pair = await make_pair("error:Forbidden.RAM", **DCDN)
    with pytest.raises(Misconfigured) as caught:
        await pair.target.submit(FILE, [pair.url("/a")], force=False)
    assert "dcdn:RefreshDcdnObjectCaches" in caught.value.hint


async def test_the_services_have_a_quota_each(make_pair: MakePair) -> None:
    """CDN and DCDN of one account have a ledger each, and neither API has the other's actions."""
    cdn, dcdn = await make_pair(), await make_pair(**DCDN)
    assert (cdn.target.account, dcdn.target.account) == ("main", "dcdn:main")
    crossed = await make_pair(emulate=DcdnEmulator)
    with pytest.raises(Misconfigured, match="InvalidAction"):
        await crossed.target.submit(FILE, [crossed.url("/a")], force=False)
