"""Whose task is it: every order of two and three requests, their answers and the list, against what the CDN took."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from listener.allowances import Day, for_each_kind
from listener.contracts import Pace, UnknownOutcome
from listener.pipeline.accounts import Account
from listener.pipeline.outcomes import UnknownOutcomes
from listener.refresh import Attempt, AttemptState, RefreshKind, Scope, Task, TaskState
from listener.store import NeedInput, Store, open_store
from listener.store.transitions import AttemptRequest

SOAKING = settings().max_examples >= 1000

pytestmark = [
    pytest.mark.looptime(False),  # a database thread keeps real time; the clock of the model is moved
    pytest.mark.timeout(3600 if SOAKING else 300),  # thousands of transactions
]

FIRST_SECONDS = 6.0
ANSWER_SECONDS = 8.0
"""How long an answer is awaited at most."""
LATE_SECONDS = 2 * FIRST_SECONDS - 1.5
"""When a task is listed at the latest, in seconds after its making; the list reports whole seconds."""
OUTCOMES = ("lost", "silent", "done", "late lost", "late silent", "late done")
"""Not accepted, accepted without an answer, accepted; "late": the answer is awaited for ``ANSWER_SECONDS``."""


class Request(NamedTuple):
    """One request of a model."""

    names: str
    """A URL each."""
    outcome: str
    at: float
    """When it is sent, in seconds."""
    listed_after: float
    """How long its tasks are missing from the list."""
    number: int = 0

    @property
    def taken(self) -> bool:
        """Whether the CDN accepted it."""
        return not self.outcome.endswith("lost")


class ModelClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        """Start at a whole second."""
        self.time = 1_800_000_000.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.time


class ModelTarget:
    """The reading half of a CDN: rows with an id that requests of one second share."""

    unknown_outcome = UnknownOutcome.TASKS
    pace = Pace()

    def __init__(self, clock: ModelClock) -> None:
        """Take nothing yet."""
        self.clock = clock
        self.rows: list[tuple[float, Task]] = []

    def take(self, kind: RefreshKind, urls: Sequence[str], listed_after: float) -> str:
        """Accept a request; return its task id."""
        now = self.clock.now()
        task_id = f"{kind}-{int(now)}"
        tasks = [Task(task_id, url, kind, TaskState.COMPLETE, float(int(now))) for url in urls]
        self.rows += [(now + listed_after, task) for task in tasks]
        return task_id

    def _listed(self) -> Iterator[Task]:
        return (task for at, task in self.rows if at <= self.clock.now())

    async def tasks(self, task_ids: Sequence[str]) -> list[Task]:
        """Return the rows of these tasks, spelled in another way than they were submitted."""
        return [
            task._replace(url=(task.url or "").replace("%5B", "%5b"))
            for task in self._listed()
            if task.task_id in task_ids
        ]

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> list[Task]:
        """Return the rows of one URL of a span."""
        return [
            task
            for task in self._listed()
            if (task.kind, task.url) == (kind, url) and since - 1 <= (task.created_at or 0) <= until
        ]


class Model:
    """One store and one clock for many cases, each with URLs and an account of its own."""

    def __init__(self, store: Store, clock: ModelClock) -> None:
        """Take what all cases share."""
        self.store = store
        self.clock = clock
        self.cases = 0

    async def play(self, kind: RefreshKind, requests: Sequence[Request]) -> None:
        """Play one case until nothing is unknown, and hold the books against what the CDN took."""
        self.cases += 1
        case = Case(self, f"case-{self.cases}", kind)
        began = self.clock.time = (self.clock.time // 3600.0 + 1.0) * 3600.0  # far from the end of a quota day
        events = sorted(
            [(began + one.at, 0, one) for one in requests]
            + [(began + one.at + (ANSWER_SECONDS if "late" in one.outcome else 0.25), 1, one) for one in requests],
            key=lambda event: event[:2],
        )
        for at, is_answer, request in events:
            await case.resolve_until(at)
            await (case.answer(request) if is_answer else case.send(request))
        await case.resolve_until(self.clock.time + 20 * FIRST_SECONDS)
        await case.check(requests)


class Case:
    """One case while it is played."""

    def __init__(self, model: Model, name: str, kind: RefreshKind) -> None:
        """Start with nothing sent."""
        self.store, self.clock, self.kind = model.store, model.clock, kind
        self.name = name
        self.target = ModelTarget(model.clock)
        account = Account(name, {"cdn": self.target})  # type: ignore[dict-item]
        self.unknowns = UnknownOutcomes(
            account,
            model.store,
            model.clock,
            first_seconds=FIRST_SECONDS,
            give_up_seconds=3600.0,
            resend=lambda _: False,
        )
        self.sent: dict[Request, tuple[list[Attempt], float]] = {}
        self.adopted: dict[Request, str] = {}

    def url(self, name: str) -> str:
        """Return the URL of a name in this case."""
        slash = "/" if self.kind is RefreshKind.DIRECTORY else ""
        return f"https://{self.name}.example.com/%5B{name}{slash}"

    async def send(self, request: Request) -> None:
        """Change what it is about, hold it and write it; the CDN takes it, or it is lost."""
        urls = [self.url(name) for name in request.names]
        scope = Scope.EXACT if self.kind is RefreshKind.FILE else Scope.SUBTREE
        await self.store.request([NeedInput("cdn", url, scope) for url in urls])
        wanted = [AttemptRequest("cdn", self.kind, url, True, "test", self.clock.now()) for url in urls]
        made = await self.store.hold(wanted, account=self.name, allowances=for_each_kind({self.kind: 100}, Day()))
        assert len(made) == len(urls)
        assert len(await self.store.mark_sending([one.id for one in made])) == len(urls)
        self.sent[request] = made, self.clock.now()
        if request.taken:
            self.adopted[request] = self.target.take(self.kind, urls, request.listed_after)

    async def answer(self, request: Request) -> None:
        """Book its answer, or that none came."""
        made, _ = self.sent[request]
        ids = [one.id for one in made]
        if request.outcome.endswith("done"):
            await self.store.accept(dict.fromkeys(ids, self.adopted[request]), next_look_at=0.0)
        else:
            await self.store.mark_unknown(ids, next_look_at=self.clock.now() + FIRST_SECONDS / 2, error="reset")

    async def resolve_until(self, end: float) -> None:
        """Look at what is due, as often as something is, until then."""
        while True:
            unknown = await self.store.attempts_in(AttemptState.UNKNOWN)
            due = min((one.next_look_at or 0.0 for one in unknown), default=end)
            if due >= end:
                break
            self.clock.time = max(self.clock.time, due)
            await self.unknowns.resolve()
        self.clock.time = max(self.clock.time, end)

    async def check(self, requests: Sequence[Request]) -> None:
        """The books are what the CDN took, and nothing counts as refreshed that no later request refreshed."""
        assert not await self.store.attempts_in(AttemptState.UNKNOWN, AttemptState.SENDING)
        budget = await self.store.budget(self.name, *for_each_kind({self.kind: 100}, Day()))
        assert (budget.spent, budget.held) == (len(self.target.rows), 0)
        flying = await self.store.attempts_in(AttemptState.ACCEPTED)
        taken = Counter(task.url for _, task in self.target.rows)
        assert Counter(one.url for one in flying) == taken
        for attempt in flying:
            sent = [
                at for one, (made, at) in self.sent.items() if one.taken for other in made if other.url == attempt.url
            ]
            assert max(sent) >= (attempt.sent_at or 0.0) - 1e-3
        if len({one.names for one in requests}) == len(requests) <= 2:  # of unlike requests each is reported for sure
            kept = {one.id for one in flying}
            assert kept == {other.id for one, (made, _) in self.sent.items() if one.taken for other in made}
        await self.store.complete(flying)
        for attempt in flying:
            if attempt.kind is RefreshKind.DIRECTORY:
                await self.store.sweep(attempt)


async def a_model(folder: Path) -> Model:
    """Open a store for a model."""
    clock = ModelClock()
    return Model(open_store(f"sqlite:///{folder}/state.db", clock=clock, owner=True), clock)


SHARED = [("abc", "a"), ("abc", "bc"), ("abc", "abc"), ("a", "abc"), ("ab", "bc")]
"""The URLs of two requests: one of them shared, some, or all."""
LISTED = [(0.0, 0.0), (LATE_SECONDS, 0.0), (0.0, LATE_SECONDS)]
CASES = list(itertools.product(SHARED, OUTCOMES, OUTCOMES, LISTED))
STEP = 1 if SOAKING else len(SHARED)
"""In a soak every case; else each pair of outcomes with each way of listing once, their URLs in turn."""


@pytest.mark.parametrize(
    ("kind", "apart", "first_case"),
    [(RefreshKind.FILE, 0.0, 0), (RefreshKind.FILE, 3.0, 1), (RefreshKind.DIRECTORY, 20.0, 2)],
)
async def test_the_books_are_what_the_cdn_took(
    tmp_path: Path, kind: RefreshKind, apart: float, first_case: int
) -> None:
    """Two requests that share URLs, each with every outcome, listed early or late: settled, and booked as it was."""
    model = await a_model(tmp_path)
    async with model.store:
        for (first, second), one, two, listed in CASES[first_case % STEP :: STEP]:
            await model.play(
                kind, [Request(first, one, 0.1, listed[0]), Request(second, two, 0.1 + apart, listed[1], 1)]
            )


REQUESTS = st.builds(
    Request,
    st.sampled_from(["a", "b", "c", "ab", "bc", "ac", "abc"]),
    st.sampled_from(OUTCOMES),
    st.sampled_from([0.1, 0.3, 0.5, 2.1, 9.1, 14.1, 30.1]),
    st.sampled_from([0.0, LATE_SECONDS]),
)


SHOWN_LATE = [
    Request("a", "late lost", 0.1, 0.0),
    Request("a", "lost", 0.3, 0.0),
    Request("ab", "silent", 2.1, LATE_SECONDS),
]


CREDITED_BY_URL = [
    [Request("a", "lost", 0.1, 0.0), Request("ab", "silent", 0.3, 0.0), Request("b", "lost", 0.5, 0.0)],
    [Request("a", "lost", 0.1, 0.0), Request("ab", "silent", 0.3, 0.0), Request("ab", "lost", 0.5, 0.0)],
]
"""The first and the last, or the one between, may have made the tasks: nobody can tell, and no change may be lost."""


@settings(max_examples=max(40, settings().max_examples * 2 // 5))
@example(SHOWN_LATE)
@example(CREDITED_BY_URL[0])
@example(CREDITED_BY_URL[1])
@given(st.lists(REQUESTS, min_size=3, max_size=4, unique_by=lambda one: one.at))
async def test_of_more_requests_too(tmp_path_factory: pytest.TempPathFactory, requests: list[Request]) -> None:
    """Three and four requests with any URLs, times and outcomes end with books that are what the CDN took."""
    model = await a_model(tmp_path_factory.mktemp("model"))
    async with model.store:
        await model.play(RefreshKind.FILE, sorted(requests, key=lambda one: one.at))
