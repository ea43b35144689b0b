"""
A whole pipeline with the target under test and a real state file, ended as by SIGKILL at any step of an attempt's life.

From that step on nothing of the process has an effect: no transaction is begun, no call of the target returns. What it
wrote before is in the state file, as after a crash, and what it handed to the network is on its way. Then another
process takes over: another store, another pipeline, another target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from listener.contracts import Target, UnknownOutcome
from listener.daemon.status import quota_of
from listener.pipeline import Pipeline, store_options
from listener.refresh import NeedInput, RefreshKind, Scope
from listener.settings import Settings
from listener.store import Store, open_store
from listener.testing.clock import MovableClock

__all__ = ["Life", "kill_before_step"]

SETTLE_SECONDS: Final = 90.0
"""How long a pipeline may take to settle everything, in real time; its clock is moved on meanwhile."""
QUIET_SECONDS: Final = 0.15
"""How long it is left alone before its clock is moved on."""
STEP_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.05
"""Between two steps: a task list shows a request in less than the time after which its absence is believed."""
MOST_STEPS: Final = 400
_SCOPES: Final = {RefreshKind.FILE: Scope.EXACT, RefreshKind.DIRECTORY: Scope.SUBTREE}
_WRITES: Final = frozenset({"reserve", "transitions", "attempts", "answers"})
"""The modules of the store whose transactions are steps of an attempt's life."""
_LOOKS: Final = frozenset({"promote_due", "prolong_births", "recover", "correct"})


@dataclass
class Life:
    """One process: what it does step by step, until it is killed."""

    kill_at: int | None
    """Before which step; ``None``: it lives on."""
    steps: list[str] = field(default_factory=list)
    is_dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, name: str) -> None:
        """Begin a step; raise ``CancelledError`` where the process is dead."""
        if not self.is_dead and len(self.steps) == self.kill_at:
            self.is_dead = True
            self.died.set()
        if self.is_dead:
            raise asyncio.CancelledError
        self.steps.append(name)

    def watch(self, store: Store, target: Target) -> None:
        """Let the transactions of a store, and the calls of a target, be steps."""
        write, submit = store._write, target.submit

        async def written(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            name = getattr(operation, "__name__", "")
            if getattr(operation, "__module__", "").rpartition(".")[2] in _WRITES and name not in _LOOKS:
                self.step(f"before the transaction {name}")
            elif self.is_dead:
                raise asyncio.CancelledError
            return await write(operation, *args, **kwargs)

        async def submitted(*args: Any, **kwargs: Any) -> Any:
            self.step("before submit")
            sending = asyncio.ensure_future(submit(*args, **kwargs))
            try:
                await asyncio.sleep(0)
                self.step("while the request is being sent")
                answer = await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            self.step("after the answer")
            return answer

        vars(store)["_write"] = written
        vars(target)["submit"] = submitted
        for name in ("admit", "tasks", "find_tasks", "read_quota"):
            if (call := getattr(target, name, None)) is not None:
                vars(target)[name] = self._while_alive(call)

    def _while_alive(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            if self.is_dead:
                raise asyncio.CancelledError
            return await call(*args, **kwargs)

        return called


def _settings(folder: Path, target: Target, base_url: str) -> Settings:
    return Settings(
        store={"url": f"sqlite:///{folder}/state.db"},
        coalescer={"quiet_seconds": 0.05, "cap_seconds": 1.0},
        verifier={"first_seconds": 4.0, "interval_seconds": 0.1, "give_up_seconds": 3600.0},
        admin={"listen": ""},
        sources={"www": {"type": "filesystem", "path": str(folder)}},
        targets={target.name: {"type": "under-test"}},
        sites=[{"source": "www", "target": target.name, "base_urls": [base_url], "min_directory_depth": 0}],
    )


async def _live(life: Life, folder: Path, target: Target, base_url: str, clock: MovableClock) -> Store:
    """Run one process until it is killed, or has nothing left to do; return its store, which is open."""
    settings = _settings(folder, target, base_url)
    options = store_options(settings, {target.name: target})
    store = open_store(settings.store.url, options=options, clock=clock, owner=True)
    life.watch(store, target)
    pipeline = Pipeline(settings, store, make_sources=dict, targets={target.name: target}, clock=clock)
    running = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            await _until_settled(life, store, clock, running)
    except TimeoutError:
        counts = await store.counts()
        raise AssertionError(f"not settled, with {counts}; steps: {life.steps}") from None
    finally:
        if not life.is_dead:
            pipeline.stop()
            await asyncio.wait([running], timeout=SETTLE_SECONDS)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if life.is_dead:
            await store.close()
    return store


async def _until_settled(life: Life, store: Store, clock: MovableClock, running: asyncio.Task[None]) -> None:
    began, steps = asyncio.get_running_loop().time(), 0
    while not life.is_dead:
        if running.done():
            running.result()
        counts = await store.counts()
        if not any((counts.pending, counts.deferred, counts.in_flight, counts.failed, counts.unconfirmed)):
            return
        if asyncio.get_running_loop().time() - began > QUIET_SECONDS and steps < MOST_STEPS:
            began, steps = asyncio.get_running_loop().time() - QUIET_SECONDS + PAUSE_SECONDS, steps + 1
            clock.ahead += STEP_SECONDS
        await asyncio.sleep(0.01)


async def kill_before_step(
    make_target: Callable[[], Target],
    refreshed: Callable[[], Collection[str]],
    urls: Mapping[RefreshKind, Sequence[str]],
    *,
    folder: Path,
    base_url: str,
    kill_at: int | None,
) -> Sequence[str]:
    """
    Refresh URLs with a process that is killed before a step, and another one after it; check what became of them.

    Args:
        make_target: makes a new target that talks to the service.
        refreshed: returns each URL as often as the service has accepted it.
        urls: by kind, what to refresh; what the target cannot do is left out.
        folder: an empty one, for the state file.
        base_url: of all URLs.
        kill_at: the number of the step, from 0; ``None``: none is killed.

    Returns:
        The steps of the first process.
    """
    clock, first = MovableClock(), Life(kill_at)
    target = make_target()
    urls = {kind: these for kind, these in urls.items() if kind in target.limits}
    settings = _settings(folder, target, base_url)
    async with open_store(settings.store.url, clock=clock, owner=False) as store:
        await store.request([NeedInput(target.name, url, _SCOPES[kind]) for kind in urls for url in urls[kind]])
    try:
        store = await _live(first, folder, target, base_url, clock)
    finally:
        await target.close()
    if first.is_dead:
        target = make_target()
        try:
            store = await _live(Life(None), folder, target, base_url, clock)
        finally:
            await target.close()
    try:
        await _check_outcome(store, target, refreshed(), urls, first)
    finally:
        await store.close()
    return first.steps


async def _check_outcome(
    store: Store,
    target: Target,
    refreshed: Collection[str],
    urls: Mapping[RefreshKind, Sequence[str]],
    life: Life,
) -> None:
    """Fail unless nothing was lost, the ledger has all that was accepted, and each outcome was settled as declared."""
    where = f"killed after {life.steps[-1:] or 'the start'}: " if life.is_dead else ""
    counts = await store.counts()
    assert not counts.parked, f"{where}{counts.parked} URLs were set aside"
    accepted = list(refreshed)
    most = 1 if target.unknown_outcome in (UnknownOutcome.TASKS, UnknownOutcome.TOKEN) or not life.is_dead else 2
    for kind, these in urls.items():
        for url in these:
            times = accepted.count(url)
            assert times, f"{where}{url} was lost: {kind} was never accepted, and counts as fresh"
            why = f"unknown_outcome = {target.unknown_outcome.value} promises at most {most}"
            assert times <= most, f"{where}{url} was accepted {times} times; {why}"
    quota = (await quota_of(store, {target.name: target}, now=store.clock.now()))[target.name]
    for allowance in target.allowances:
        expected = sum(allowance.costs.get(kind, 0) * sum(map(accepted.count, these)) for kind, these in urls.items())
        if (row := quota.get(allowance.name)) is not None:
            spent = row["spent"]
            assert spent >= expected, f"{where}{expected} of {allowance.name} were accepted, and {spent} booked"
            assert spent <= row["limit"], f"{where}{spent} of {allowance.name} is above its limit"
