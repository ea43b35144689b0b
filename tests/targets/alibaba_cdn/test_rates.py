"""No limit of the CDN is passed, whoever asks how fast; and nobody waits longer than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.alibaba.rates import DomainWindows, Window
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.targets.alibaba_cdn.recording_api import Api

MakeTarget = Callable[..., AlibabaCdn]


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 7)), max_size=40), st.floats(0.3, 7))
def test_no_span_ever_holds_more_than_the_limit(steps: list[tuple[float, int]], limit: float) -> None:
    """Whatever comes when: in any span of the window's length at most the limit is taken (one too large: alone)."""
    window, now, taken = Window(limit, 1.0), 0.0, []
    for pause, amount in steps:
        now += pause
        now += window.wait_seconds(amount, now)
        window.wait_seconds(amount, now)
        window.add(amount, now)
        taken.append((now, amount))
        inside = [count for at, count in taken if at > now - window.span_seconds + 1e-9]
        assert sum(inside) <= window.limit + 1e-9 or len(inside) == 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_what_fits_never_waits(amounts: list[int]) -> None:
    """A window as large as all together lets everything through at once."""
    window = Window(sum(amounts), 60.0)
    for amount in amounts:
        assert window.wait_seconds(amount, 0.0) == 0.0
        window.add(amount, 0.0)
    assert window.wait_seconds(1, 0.0) == 60.0


async def test_calls_keep_the_limit_a_second(make_target: MakeTarget) -> None:
    """Fifty calls a second, for any number of callers at once: the 51st waits for the second to pass."""
    target = make_target()
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def one(number: int) -> None:
        await target.admit(RefreshKind.FILE, [f"http://h{number}/a"])
        times.append(loop.time())

    start = loop.time()
    await asyncio.gather(*(one(number) for number in range(120)))
    counts = [sum(second <= at - start < second + 1 for at in times) for second in range(3)]
    assert counts == [50, 50, 20]


async def test_domains_keep_their_limits_a_minute(make_target: MakeTarget) -> None:
    """A thousand URLs a domain and minute; another domain, and directories, have their own."""
    target = make_target()
    loop = asyncio.get_running_loop()
    urls = [f"http://one/{number}" for number in range(600)]
    start = loop.time()
    await target.admit(RefreshKind.FILE, urls)
    await target.admit(RefreshKind.FILE, ["http://two/a"] * 600)
    await target.admit(RefreshKind.DIRECTORY, ["http://one/d/"] * 100)
    assert loop.time() == start
    await target.admit(RefreshKind.FILE, urls)
    assert loop.time() == pytest.approx(start + 60, abs=0.01)
    await target.admit(RefreshKind.DIRECTORY, ["http://ONE/d/"])
    assert loop.time() == pytest.approx(start + 60, abs=0.01)


async def test_a_waiting_domain_does_not_hold_up_another(make_target: MakeTarget) -> None:
    """Only who needs the full domain waits."""
    target = make_target(limits={"urls_per_domain_minute": 10})
    await target.admit(RefreshKind.FILE, ["http://one/a"] * 10)
    waiting = asyncio.create_task(target.admit(RefreshKind.FILE, ["http://one/a"]))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await target.admit(RefreshKind.FILE, ["http://two/a"] * 10)
    assert loop.time() == start
    await waiting


async def test_batches_over_the_same_domains_do_not_block_each_other_for_ever() -> None:
    """Batches that name the same domains in another order, all waiting, all get through."""
    windows = DomainWindows(10)
    await windows.take({"a": 10, "b": 10})
    async with asyncio.timeout(600):
        await asyncio.gather(
            windows.take({"a": 6, "b": 6}), windows.take({"b": 6, "a": 6}), windows.take({"a": 6, "b": 6})
        )


async def test_a_domain_that_is_waited_for_is_not_forgotten() -> None:
    """A batch that waits for one of its domains keeps its place in the others."""
    windows = DomainWindows(10)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await windows.take({"a": 10})
    first = asyncio.create_task(windows.take({"a": 5, "b": 10}))
    await asyncio.sleep(30)
    await windows.take({"b": 10})
    assert first.done()
    assert loop.time() == pytest.approx(start + 120, abs=0.01)


async def test_a_batch_larger_than_the_limit_waits_for_an_empty_minute() -> None:
    """It can never fit, so it goes alone rather than never."""
    windows = DomainWindows(10)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await windows.take({"a": 1})
    await windows.take({"a": 25})
    assert loop.time() == pytest.approx(start + 60, abs=0.01)


async def test_idle_domains_are_forgotten() -> None:
    """A target that serves many domains over a year does not grow with them."""
    windows = DomainWindows(10)
    for number in range(1000):
        await windows.take({f"h{number}": 1})
    await asyncio.sleep(61)
    await windows.take({"h": 1})
    assert len(windows) == 1


async def test_a_cancelled_waiter_takes_nothing() -> None:
    """Who gives up leaves its place to the next."""
    windows = DomainWindows(10)
    await windows.take({"a": 10})
    waiting = asyncio.create_task(windows.take({"a": 10}))
    await asyncio.sleep(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    loop = asyncio.get_running_loop()
    start = loop.time()
    await windows.take({"a": 10})
    assert loop.time() == pytest.approx(start + 59, abs=0.01)


@pytest.mark.parametrize(("method", "per_second"), [("read_quota", 6), ("tasks", 10)])
async def test_reads_keep_to_a_third_of_their_limits(
    api: Api, make_target: MakeTarget, method: str, per_second: int
) -> None:
    """Looking at tasks and quota leaves two thirds of each limit to others of the account."""
    api.default = lambda _: answer({"Tasks": [], "TotalCount": 0})
    target = make_target(limits={"calls_per_second": 1000})
    arguments: list[Any] = [] if method == "read_quota" else [["1"]]
    await asyncio.gather(*(getattr(target, method)(*arguments) for _ in range(30)))
    start = api.times[0]
    assert sum(at < start + 1 for at in api.times) == per_second


def answer(fields: dict[str, Any]) -> Any:
    """Return a success with these fields."""
    from tests.targets.alibaba_cdn.recording_api import Answer

    return Answer(fields=fields)
