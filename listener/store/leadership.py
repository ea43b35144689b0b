"""
Who may send for an account: one process at a time, in one *term*.

Of a state file the owner's lock decides, once for all accounts (:class:`SoleOwner`). Of a PostgreSQL store leases
decide (:mod:`listener.store.postgres.leases`), account by account: a term begins with a take-over, every transaction of
a leader proves first that its term still holds, and its requests end before its lease does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from listener.configuration import is_postgres
from listener.refresh import RefreshKind
from listener.store.charges import Charge

if TYPE_CHECKING:
    from listener.store.store import Store, StoreOptions

__all__ = [
    "LEAST_LEFT_SECONDS",
    "NO_SURPLUS",
    "SOURCE",
    "UPKEEP",
    "Deadline",
    "Leadership",
    "SoleOwner",
    "Surplus",
    "Term",
    "leadership_of",
]

LEAST_LEFT_SECONDS: Final = 2.0
"""No request begins with less time left to the deadline, so that only a stopped machine leaves unknown outcomes."""
SOURCE: Final = "source:"
"""What the lease of a source begins with, which one of the instances reads."""
UPKEEP: Final = "task:upkeep"
"""The lease of the process that removes what is old."""


class Term(Protocol):
    """One account's leadership by this process, from a take-over to its end."""

    account: str
    number: int
    """Higher than that of every earlier term of the account."""
    store: Store
    """Writes only while this term holds: else each of its transactions raises :class:`~listener.errors.Fenced`."""
    unknown_seconds: Mapping[int, float]
    """
    For how long the outcomes of attempts (by id) had been unknown at the take-over that another leader was sending.

    It may have been frozen, and have sent them any time before: that they are absent is believed by this time only.
    """

    def left_seconds(self) -> float:
        """Return for how long requests may be written; not positive when none may be."""
        ...

    def may_begin(self) -> bool:
        """Return whether there is time left for a request."""
        ...

    async def take_over(self) -> None:
        """Sort out what the last leader left; the first step of a term."""
        ...

    async def note_late_answer(
        self, tasks: Mapping[int, str], *, kind: RefreshKind, charges: tuple[Charge, ...]
    ) -> None:
        """
        Keep for the next leader what the CDN accepted, since this term has ended.

        Args:
            tasks: attempt to task id.
            kind: of the attempts.
            charges: what each of them holds.
        """
        ...

    async def book_late_answers(self) -> int:
        """Book what the CDN accepted from earlier leaders of the account; return how many attempts that were."""
        ...

    def end(self) -> None:
        """Note that its leader stops by itself."""
        ...


class Surplus(NamedTuple):
    """Leases that other instances should hold."""

    names: frozenset[str]
    most: int
    """As many of them are handed over at once."""


NO_SURPLUS = Surplus(frozenset(), 0)


class Leadership(Protocol):
    """Which accounts this process leads."""

    is_sole: bool
    """Whether it leads all of them for as long as it runs."""

    @property
    def terms(self) -> Mapping[str, int]:
        """The leases that are held here, with the numbers of their terms."""
        ...

    @property
    def surplus(self) -> Surplus:
        """Which of them others should lead."""
        ...

    @property
    def trouble(self) -> str:
        """What keeps this process from leading; empty while nothing does."""
        ...

    @property
    def own_trouble(self) -> str:
        """The part of it that the database can keep: what is wrong with this instance itself."""
        ...

    def term(self, account: str) -> Term:
        """Return the current term of an account that is led here."""
        ...

    def follow(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, in the loop, whenever :attr:`terms` or :attr:`surplus` changed."""
        ...

    async def run(self) -> None:
        """Keep the leases until cancelled."""
        ...

    async def give_back(self, accounts: Collection[str]) -> None:
        """Let others lead these; whoever led them here has stopped."""
        ...

    async def leave(self) -> None:
        """Let others lead everything; the last call."""
        ...


class _SoleTerm:
    """The leadership of one account by the owner of the store: it ends with the process."""

    number = 0
    unknown_seconds: Mapping[int, float] = {}

    def __init__(self, account: str, store: Store) -> None:
        self.account = account
        self.store = store

    def left_seconds(self) -> float:
        return math.inf

    def may_begin(self) -> bool:
        return True

    async def take_over(self) -> None:
        """The owner sorts out everything at its start."""

    async def note_late_answer(
        self, tasks: Mapping[int, str], *, kind: RefreshKind, charges: tuple[Charge, ...]
    ) -> None:
        """The term ends with the process."""

    async def book_late_answers(self) -> int:
        return 0

    def end(self) -> None:
        """The process ends."""


class SoleOwner:
    """The leadership of the process that holds the owner's lock of a state file."""

    is_sole = True
    surplus = NO_SURPLUS
    trouble = own_trouble = ""

    def __init__(self, store: Store, accounts: Collection[str]) -> None:
        """Lead these accounts."""
        self._store = store
        self.terms: Mapping[str, int] = dict.fromkeys([*accounts, UPKEEP], 0)

    def term(self, account: str) -> Term:
        """Return the term of an account, which lasts as long as the process."""
        return _SoleTerm(account, self._store)

    def follow(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""

    async def run(self) -> None:
        """There is nothing to keep."""

    async def give_back(self, accounts: Collection[str]) -> None:
        """Nobody else leads."""

    async def leave(self) -> None:
        """The lock is given back when the store is closed."""


def leadership_of(store: Store, url: str, *, accounts: Collection[str], options: StoreOptions) -> Leadership:
    """
    Return what says which accounts this process leads.

    Args:
        store: open, by the process that sends.
        url: of the store.
        accounts: that can be led here.
        options: that the store was opened with.
    """
    if not is_postgres(url):
        return SoleOwner(store, accounts)
    from listener.store.postgres.keeper import keeper_of  # noqa: PLC0415 - an extra

    return keeper_of(store, url, accounts=accounts, options=options)


class Deadline:
    """
    Until when an instance may send, by its own clock.

    It ends a sixth of the lease before the database's: the time that a renewal took, and the step in which bytes are
    handed to the socket, fit in between. Times are seconds of a clock that goes on while the machine is suspended
    (``CLOCK_BOOTTIME``).
    """

    def __init__(self, lease_seconds: float) -> None:
        """Start as passed: nothing was renewed yet."""
        self._lasts_seconds = lease_seconds - lease_seconds / 6
        self.least_left_seconds = min(LEAST_LEFT_SECONDS, lease_seconds / 3)
        """With less left no request may begin."""
        self._until = -math.inf

    def renewed(self, asked_at: float) -> None:
        """Move it: a renewal succeeded that was sent at ``asked_at`` or later."""
        self._until = max(self._until, asked_at + self._lasts_seconds)

    def end(self) -> None:
        """Let it pass now: the lease is lost or was given back."""
        self._until = -math.inf

    def left_seconds(self, now: float) -> float:
        """Return for how long sending is allowed; not positive once the deadline has passed."""
        return self._until - now

    def may_begin(self, now: float) -> bool:
        """Return whether a request may begin."""
        return self.left_seconds(now) >= self.least_left_seconds
