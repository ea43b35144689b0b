"""The suite that ends a pipeline at each step finds targets that lose, or charge twice, what they declare not to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import pytest

from listener.allowances import Day, for_each_kind
from listener.contracts import Check, KindLimits, TargetBase, UnknownOutcome
from listener.refresh import Receipt, RefreshKind, Task, TaskState
from listener.store import attempts
from listener.testing import TargetConformance

LIMITS = {RefreshKind.FILE: KindLimits(10)}


class Accepted(NamedTuple):
    """One URL that was accepted."""

    url: str
    token: str
    at: float


class Memory(TargetBase):
    """A CDN in memory, and its target."""

    limits: ClassVar = LIMITS
    allowances: ClassVar = for_each_kind({RefreshKind.FILE: 100}, Day())
    declares: ClassVar = UnknownOutcome.SPENT
    keeps_tokens = True
    lists_tasks = True
    accepts = True

    def __init__(self, accepted: list[Accepted]) -> None:
        """Share with others what was accepted: URL and token."""
        super().__init__("memory", None)
        self.unknown_outcome = self.declares
        self.accepted = accepted

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Accept."""
        has_tokens = self.declares is UnknownOutcome.TOKEN and self.keeps_tokens
        is_known = has_tokens and token in {one.token for one in self.accepted}
        if self.accepts and not is_known:
            self.accepted += [Accepted(url, token, time.time()) for url in urls]
        return Receipt((token,)) if self.declares is UnknownOutcome.TASKS else Receipt()

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """All are complete."""
        return [
            Task(one.token, one.url, RefreshKind.FILE, TaskState.COMPLETE, created_at=one.at)
            for one in self.accepted
            if one.token in task_ids
        ]

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """Return the tasks of this URL."""
        ids = [one.token for one in self.accepted if one.url == url and self.lists_tasks]
        return await self.tasks(ids)

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []


class Suite(TargetConformance):
    """The suite, with a target of some class."""

    __test__ = False

    def __init__(self, **declares: Any) -> None:
        self._class = type("Declaring", (Memory,), declares)
        self.accepted: list[Accepted] = []

    def make_unreachable_target(self) -> Any:
        return self._class([])

    def service(self) -> Any:
        return self._service()

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[Any]:
        self.accepted = []
        yield self

    def make_target(self) -> Any:
        """Return a new target in front of the same CDN."""
        return self._class(self.accepted)

    def refreshed(self) -> Collection[str]:
        """Return what was accepted, as often as it was."""
        return [one.url for one in self.accepted]


@pytest.mark.parametrize("how", list(UnknownOutcome))
def test_an_honest_target_passes(how: UnknownOutcome) -> None:
    """Whatever it declares."""
    free = {"allowances": ()} if how is UnknownOutcome.REPEAT else {}
    Suite(declares=how, **free).test_nothing_is_lost_wherever_it_is_killed()


@pytest.mark.parametrize(
    ("declares", "words"),
    [
        ({"declares": UnknownOutcome.TASKS, "lists_tasks": False}, "accepted 2 times; unknown_outcome = tasks"),
        ({"declares": UnknownOutcome.TOKEN, "keeps_tokens": False}, "accepted 2 times; unknown_outcome = token"),
        ({"accepts": False}, "was lost"),
    ],
)
def test_a_target_that_does_not_keep_what_it_declares_fails(declares: dict[str, Any], words: str) -> None:
    """The message says at which step."""
    with pytest.raises(AssertionError, match=words):
        Suite(**declares).test_nothing_is_lost_wherever_it_is_killed()


def test_what_may_be_repeated_costs_nothing() -> None:
    """A target with an allowance declares something else: what is repeated would be paid for twice."""
    with pytest.raises(AssertionError, match="paid for twice"):
        Suite(declares=UnknownOutcome.REPEAT).test_it_declares_what_it_can_do()


def test_what_costs_something_shows_what_becomes_of_a_lost_answer() -> None:
    """The hook may be left out only where nothing can be overspent."""
    Suite(allowances=()).test_an_unknown_outcome_can_be_settled_as_declared()
    with pytest.raises(AssertionError, match="lost_answer"):
        Suite().test_an_unknown_outcome_can_be_settled_as_declared()


def test_units_that_are_not_booked_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what was being sent when the process ended had surely not been sent."""

    def all_refunded(connection: Any, *, now: float, account: str | None = None) -> list[int]:
        for state in ("held", "sending"):
            attempts.refund(connection, attempts._ids_in(connection, attempts.AttemptState(state), account))
        return []

    monkeypatch.setattr(attempts, "sort_out", all_refunded)
    with pytest.raises(AssertionError, match="were accepted, and 2 booked"):
        Suite().test_nothing_is_lost_wherever_it_is_killed()
