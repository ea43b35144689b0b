"""What recording makes of needs, one change of one URL after the other: the model of the store's statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from listener.refresh import NeedState, Priority, Scope
from listener.store.need_rows import NeedClass, NeedRow

WAITING, READY, ATTEMPTED, PARKED, UNCONFIRMED = NeedState
NeedKey = tuple[int, str, int]


@dataclass(frozen=True)
class NeedModel:
    """A row of ``need``, as far as recording reads or writes it."""

    sequence: int
    stale_since: float
    window_first: float
    later_since: float | None
    due_at: float | None
    state: NeedState
    open: int
    needs_force: int
    attempt: int | None
    priority: int
    birth: int | None


def recorded(
    needs: Mapping[NeedKey, NeedModel], of: NeedClass, rows: Iterable[NeedRow], *, sequence: int, now: float
) -> dict[NeedKey, NeedModel]:
    """Return the needs after these changes of URLs, taken one by one."""
    found = dict(needs)
    for directory, name, scope, stale_since, mark in sorted(rows):
        key = (directory, name, scope)
        old = found.get(key)
        if old is None:
            found[key] = NeedModel(
                sequence, stale_since, now, None, now + of.due_seconds, WAITING, of.open, int(of.needs_force), None,
                of.priority, mark if of.is_birth else None,
            )  # fmt: skip
        else:
            found[key] = _raised(old, Scope(scope), of, (stale_since, mark), sequence=sequence, now=now)
    return found


def _raised(
    old: NeedModel, scope: Scope, of: NeedClass, change: tuple[float, int], *, sequence: int, now: float
) -> NeedModel:
    stale_since, mark = change
    reached = max(of.forced_mark, 0 if old.needs_force else of.mark)
    below_directory = bool(of.mark) and old.sequence <= reached and not old.open and scope is not Scope.PREFETCH
    covered = old.state in (ATTEMPTED, UNCONFIRMED) or below_directory
    restarts = covered or (bool(of.open) and old.state is READY)
    waits_for_origin = old.state is WAITING and old.open == 2
    stays = old.state is PARKED or (old.state is READY and not restarts)
    due_at = max(now + of.delay_seconds, min(now + of.due_seconds, old.window_first + of.cap_seconds))
    if stays:
        due: float | None = None
    elif restarts:
        due = now + of.due_seconds
    else:
        due = max(old.due_at or 0.0, due_at) if waits_for_origin else due_at
    later = old.later_since
    if covered and later is None:
        later = stale_since
    return replace(
        old,
        sequence=sequence,
        due_at=due,
        open=2 if waits_for_origin else of.open,
        window_first=now if restarts or old.state in (READY, PARKED) else old.window_first,
        later_since=later,
        attempt=None,
        state=old.state if stays else WAITING,
        needs_force=max(old.needs_force, int(of.needs_force)),
        priority=Priority(min(old.priority, of.priority)),
        birth=old.birth if old.state is WAITING and not restarts and old.birth == mark else None,
    )
