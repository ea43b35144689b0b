"""The emulator as a whole: its settings, its start and end, tasks by the real clock, and its pace."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.alibaba.signature import Credentials
from listener.allowances import ALIBABA_DAY
from listener.emulator import (
    Emulator,
    EmulatorSettings,
    credentials_from_environment,
    parse_address,
    parse_quota,
    serve,
)
from listener.emulator.alibaba import parse_fault
from listener.emulator.alibaba.account import EmulatedAccount, Submission
from listener.emulator.alibaba.faults import Rejection
from listener.emulator.control import _from_this_machine
from listener.emulator.faults import FaultBook
from listener.emulator.server import Accepted
from listener.emulator.tasks import TaskBook
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

MakeWorld = Callable[..., Awaitable[Any]]
KINDS = list(RefreshKind)


def settings(tmp_path: Path, **values: Any) -> EmulatorSettings:
    """Return settings on free ports."""
    credentials = Credentials("testid", "testsecret")
    return replace(EmulatorSettings(origin=str(tmp_path), credentials=credentials, api_port=0, edge_port=0), **values)


def test_keys_come_from_the_environment() -> None:
    """Without any it is that of a rehearsal; half a key is a mistake; the secret is in no representation."""
    assert credentials_from_environment({}).access_key_secret == "rehearsal"
    with pytest.raises(ConfigurationError, match="ALIBABA_CLOUD_ACCESS_KEY_SECRET not set") as refused:
        credentials_from_environment({"ALIBABA_CLOUD_ACCESS_KEY_ID": "me"})
    assert "ACCESS_KEY_ID" not in str(refused.value)
    assert refused.value.hint
    variables = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "me", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "hidden"}
    made = EmulatorSettings(origin=".", credentials=credentials_from_environment(variables))
    assert made.credentials.access_key_secret == "hidden"
    assert "hidden" not in repr(made)


def test_quota_and_addresses_are_read() -> None:
    """Quota and addresses are read as the command line gives them; wrong ones are refused with their form."""
    assert parse_quota("2000,100") == {
        RefreshKind.FILE: 2000, RefreshKind.DIRECTORY: 100, RefreshKind.PREFETCH: 1000, RefreshKind.IGNORE_PARAMS: 100,
    }  # fmt: skip
    assert list(parse_quota("1, 2,3,4").values()) == [1, 2, 3, 4]
    assert parse_address("127.0.0.1:8700") == ("127.0.0.1", 8700)
    assert parse_address("[::1]:0") == ("::1", 0)
    for text in ("", "1", "1,2,3,4,5", "a,b", "-1,2"):
        with pytest.raises(ConfigurationError, match="quota"):
            parse_quota(text)
    for text in ("", "8700", "h:", "h:x", "h:65536"):
        with pytest.raises(ConfigurationError, match="address"):
            parse_address(text)


async def test_start_that_cannot_be(tmp_path: Path) -> None:
    """A missing origin, a taken port and an unwritable journal are named, and nothing is left open."""
    with pytest.raises(ConfigurationError, match="not a directory"):
        Emulator(settings(tmp_path, origin=str(tmp_path / "missing")))
    with pytest.raises(ConfigurationError, match="journal"):
        async with Emulator(settings(tmp_path, journal=tmp_path / "missing" / "journal")):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot listen") as refused:
            async with Emulator(settings(tmp_path, edge_port=taken.getsockname()[1])):
                pass
        assert "--edge" in refused.value.hint


async def test_serves_until_it_is_stopped(tmp_path: Path) -> None:
    """``serve`` says when it is ready, and SIGTERM ends it."""
    ready: asyncio.Future[Emulator] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(Emulator(settings(tmp_path)), ready.set_result))
    emulator = await ready
    async with aiohttp.ClientSession() as http, http.get(emulator.edge_url + "/x") as response:
        assert response.status == 404
    os.kill(os.getpid(), signal.SIGTERM)
    await serving


async def test_a_hanging_call_does_not_hold_up_the_end(make_world: MakeWorld) -> None:
    """An emulator whose answer is held back for an hour still ends within seconds."""
    world = await make_world("accept-then-timeout")
    hanging = asyncio.create_task(world.call("DescribeRefreshQuota"))
    loop = asyncio.get_running_loop()
    await world.control()
    await world.control()
    before = loop.time()
    await world.emulator.__aexit__(None, None, None)
    assert loop.time() - before < 10
    with pytest.raises(aiohttp.ClientError):
        await hanging


@pytest.mark.looptime(False)
async def test_tasks_end_by_themselves(tmp_path: Path) -> None:
    """By the real clock, a prefetch is in the cache once its task is over, though nobody asks."""
    (tmp_path / "a").write_text("one")
    async with Emulator(settings(tmp_path, task_seconds=0.05)) as emulator:
        path = emulator.edge_url + "/a"
        submission = Submission(action="PushObjectCache", kind=RefreshKind.PREFETCH, object_path=path)
        records = emulator.account.submit(submission, emulator.clock.now())
        emulator.note(Accepted(records=records, line={}))
        async with asyncio.timeout(30):
            while not len(emulator.cache):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("remote", "answered"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), (None, False), ("", False), ("unix", False)],
)
def test_control_is_for_this_machine_only(remote: str | None, answered: bool) -> None:
    """The control endpoints answer loopback addresses and nobody else."""
    assert _from_this_machine(remote) is answered


CALLS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 4),
        st.sampled_from(["", "http://other.example/", "nonsense"]),
        st.floats(0, 40_000),
    ),
    max_size=40,
)
ORDERS = st.lists(
    st.sampled_from(["quota:1", "malformed:/2/", "domain-not-found:h.example,count=2", "quota-limit:2,1"])
)


@given(calls=CALLS, limits=st.tuples(*[st.integers(0, 6)] * 4), orders=ORDERS)
def test_quota_is_never_exceeded(
    calls: list[tuple[RefreshKind, int, str, float]], limits: tuple[int, ...], orders: list[str]
) -> None:
    """Whatever is asked in whatever order, what is accepted in a day stays within its quota."""
    quota = dict(zip(KINDS, limits, strict=True))
    book = FaultBook([parse_fault(f"{order},after={20_000 * number}") for number, order in enumerate(orders)])
    account = EmulatedAccount(
        quota=quota,
        faults=book,
        per_minute={},
        tasks=TaskBook(history_seconds=1e9, first_id=1),
        task_seconds=1,
        domains=("h.example",),
    )
    now, spent = 0.0, dict[tuple[int, RefreshKind], int]()
    for kind, count, extra, pause in calls:
        now += pause
        paths = "\n".join([*(f"http://h.example/{number}/" for number in range(count)), extra])
        before = {each: account.ledger.spent(each, now) for each in KINDS}
        kept = len(account.tasks.all())
        try:
            records = account.submit(Submission(action="x", kind=kind, object_path=paths), now)
        except Rejection:
            assert before == {each: account.ledger.spent(each, now) for each in KINDS}
            assert len(account.tasks.all()) == kept
            continue
        assert not extra
        window = (ALIBABA_DAY.start(now), kind)
        spent[window] = spent.get(window, 0) + len(records)
        assert spent[window] == account.ledger.spent(kind, now) <= account.ledger.limits[kind]
