"""
What is still to be looked at, and when.

- :class:`Unfinished` holds files that may still be written to, until they are closed, rest, or reach a cap.
- :class:`Rescans` decides when to compare the tree with the index again: on request, merged and spaced out, and on a
  schedule.
- :class:`Unread` holds paths that could not be looked at: what the index says of them stays. Whether a
  failed look proves that nothing is there (three errors do) is decided here as well.
"""

from __future__ import annotations

import errno
import math
import os
import random
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import NamedTuple

from listener.change import Fingerprint

__all__ = [
    "LOSSES",
    "MOUNTED",
    "OPENED",
    "OVERFLOWED",
    "OVERRAN",
    "REPLACED",
    "START",
    "TOO_MANY",
    "UNWATCHED",
    "WAITING",
    "Activity",
    "HardLinks",
    "Rescans",
    "Unfinished",
    "Unread",
    "Wanted",
    "found_rest_seconds",
    "is_absent",
    "is_directory_gone",
    "means_absent",
]

START = "start"
SCHEDULE = ""
UNWATCHED = "not watched"
WAITING = "waiting for files that are gone"
"""Reasons of scans that are no answer to a loss."""

MOUNTED = "a file system was mounted or unmounted"
OPENED = "others may enter a directory than might before"
REPLACED = "a directory was replaced, or went and came back"
OVERFLOWED = "the kernel's event queue overflowed"
OVERRAN = "events came faster than they could be worked through"
TOO_MANY = "too many changes at once"
LOSSES = frozenset({OVERFLOWED, OVERRAN, TOO_MANY, SCHEDULE})
"""Reasons of scans whose every finding is something that events should have reported, and did not."""

_NO_CHANGES = (UNWATCHED, WAITING)
"""Reasons that say nothing of a change."""
_FIRST_SECONDS = 0.5
"""Requests of one moment are merged."""
_LONGEST_SECONDS = 60.0
_CALM_SECONDS = 300.0
_REST_FACTOR = 4
"""How many times as long as a prompt scan took to rest before the next one of the same directory."""
_MOST_RESTING = 256


class Wanted(NamedTuple):
    """A scan that was asked for."""

    prefix: str
    reason: str
    since: float
    """When it was first asked for."""
    due: float
    prompt: bool
    """Whether something that is known asked for it (a link that was switched, a mount), rather than a loss."""


def _covers(wide: Wanted, narrow: Wanted) -> bool:
    """Return whether one scan does what another is asked for, no later, and counts as a change where that one does."""
    counts = wide.reason not in _NO_CHANGES or narrow.reason in _NO_CHANGES
    return counts and narrow.prefix.startswith(wide.prefix) and wide.due <= narrow.due


class Rescans:
    """
    The queue of wanted scans. Pure but for jitter: ``now`` is any clock that only goes forward, in seconds.

    Scans after losses back off, all of them together, from half a second to a minute while they follow
    closely. Prompt ones do not: each directory only rests four times as long as its last scan took.
    """

    def __init__(self, *, interval_seconds: float, jitter: float, now: float) -> None:
        """Scan everything each ``interval_seconds`` (0: never), more or less by the share ``jitter``."""
        self._interval = interval_seconds
        self._jitter = jitter
        self._wanted: dict[str, Wanted] = {}
        self._running: Wanted | None = None
        self._gap = _FIRST_SECONDS
        self._ended = now - _CALM_SECONDS
        self._resting: dict[str, float] = {}
        """By directory, until when prompt scans of it rest."""
        self._scheduled = self._after(now)

    def _after(self, now: float) -> float:
        if not self._interval:
            return float("inf")
        return now + self._interval * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - no secret

    def want(self, prefix: str, reason: str, now: float, *, prompt: bool = False) -> None:
        """Ask for a scan of ``prefix`` and all below; one that a wider scan does no later adds nothing."""
        prompt = prompt or reason == MOUNTED
        rested = self._resting.get(prefix, now) if prompt else self._ended + self._gap
        wanted = Wanted(prefix, reason, now, max(now + _FIRST_SECONDS, rested), prompt)
        if any(_covers(one, wanted) for one in self._wanted.values()):
            return
        absorbed = [one for one in self._wanted.values() if _covers(wanted, one)]
        for one in absorbed:
            del self._wanted[one.prefix]
        since = min((one.since for one in absorbed if one.reason not in _NO_CHANGES), default=now)
        self._wanted[prefix] = wanted._replace(since=since)

    def next_due(self, now: float) -> float:
        """Return in how many seconds the next scan is due (infinity: never)."""
        dues = (one.due for one in self._wanted.values())
        return max(0.0, min(min(dues, default=float("inf")), self._scheduled) - now)

    def take(self, now: float) -> tuple[str, str] | None:
        """Return the next scan that is due, as (prefix, reason); a wanted one before a scheduled one."""
        due = [one for one in self._wanted.values() if one.due <= now]
        if due:
            self._running = min(due, key=lambda one: len(one.prefix))
            del self._wanted[self._running.prefix]
            return self._running.prefix, self._running.reason
        if now >= self._scheduled:
            return "", SCHEDULE
        return None

    def ended(self, prefix: str, now: float, *, took_seconds: float) -> None:
        """Note the end of a scan, of one that was taken or another."""
        ended, self._running = self._running, None
        if ended is not None and ended.prompt:
            self._rest(prefix, now, took_seconds)
        elif ended is not None:
            calm = now - self._ended > _CALM_SECONDS
            self._gap = _FIRST_SECONDS if calm else min(self._gap * 2, _LONGEST_SECONDS)
            self._ended = now
        if not prefix:
            self._scheduled = self._after(now)

    def _rest(self, prefix: str, now: float, took_seconds: float) -> None:
        if len(self._resting) >= _MOST_RESTING:
            self._resting = {each: until for each, until in self._resting.items() if until > now}
        if len(self._resting) < _MOST_RESTING:
            self._resting[prefix] = now + min(_REST_FACTOR * took_seconds, _LONGEST_SECONDS)

    def waiting(self) -> list[Wanted]:
        """Return the scans for known or possible changes that are not over yet, the oldest first."""
        running = [self._running] if self._running else []
        known = (one for one in (*running, *self._wanted.values()) if one.reason not in _NO_CHANGES)
        return sorted(known, key=lambda one: one.since)


REPORT_SECONDS = 1.0
"""Most writes end within this time: only one that lasts longer is worth a word of its own."""
FOUND_SECONDS = 1.0
"""A found file's later closing would be reported: to take it as finished too soon costs one refresh, and loses
nothing."""
_MOST = 100_000


def found_rest_seconds(stable_seconds: float) -> float:
    """Return how long a file must rest that was found while its directory is watched."""
    return min(stable_seconds, FOUND_SECONDS)


class Verdict(NamedTuple):
    """What to report of a file now."""

    key: str
    fingerprint: Fingerprint | None
    """``None``: it is gone."""
    finished: bool
    from_event: bool = True
    """False when it was found, and no event shows a writer."""


class _Write:
    __slots__ = ("begun", "changed", "due", "fingerprint", "from_event", "reported")

    def __init__(self, fingerprint: Fingerprint, now: float) -> None:
        self.begun = now
        self.changed = now
        self.due = 0.0
        self.fingerprint = fingerprint
        self.from_event = False
        self.reported = False


class Unfinished:
    """The collection. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, stable_seconds: float, cap_seconds: float, bound: int = _MOST) -> None:
        """Take a file as finished once it rests ``stable_seconds``, or after ``cap_seconds`` of writing."""
        self._stable = stable_seconds
        self._cap = cap_seconds
        self._bound = bound
        self._writes: dict[str, _Write] = {}
        self._dues: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """How many files are held."""
        return len(self._writes)

    def __contains__(self, key: str) -> bool:
        """Return whether this file is held."""
        return key in self._writes

    def begin(self, key: str, fingerprint: Fingerprint, now: float, *, from_event: bool) -> bool:
        """
        Hold a file; return whether there was room (else it counts as finished).

        ``from_event`` is false for one that was found and need not be written to by anybody: it is
        looked at sooner, and not reported before.
        """
        write = self._writes.get(key)
        if write is None:
            if len(self._writes) >= self._bound:
                return False
            write = self._writes[key] = _Write(fingerprint, now)
        if fingerprint != write.fingerprint:
            write.fingerprint, write.changed = fingerprint, now
        write.from_event = write.from_event or from_event
        self._plan(key, write, now)
        return True

    def _plan(self, key: str, write: _Write, now: float) -> None:
        rest = self._stable if write.from_event else found_rest_seconds(self._stable)
        due = min(write.changed + rest, write.begun + self._cap)
        if write.from_event and not write.reported:
            due = min(due, write.begun + REPORT_SECONDS)
        due = max(due, now)
        if due != write.due:
            write.due = due
            heappush(self._dues, (due, key))

    def end(self, key: str) -> None:
        """Let a file go that was closed, replaced or deleted."""
        self._writes.pop(key, None)

    def end_all(self, keys: Iterable[str]) -> None:
        """Let files go that were closed, replaced or deleted: many names, few of which are held."""
        for key in self._writes.keys() & set(keys):
            del self._writes[key]

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to look again; ``None`` when nothing is held."""
        while self._dues:
            due, key = self._dues[0]
            write = self._writes.get(key)
            if write is not None and write.due == due:
                return max(0.0, due - now)
            heappop(self._dues)
        return None

    def keys(self, now: float, limit: int) -> list[str]:
        """Return what to look at now; each must then be given to :meth:`looked`."""
        keys: list[str] = []
        while len(keys) < limit and self.next_look(now) == 0:
            keys.append(heappop(self._dues)[1])
            self._writes[keys[-1]].due = 0.0
        return keys

    def looked(self, found: dict[str, Fingerprint | None], now: float) -> Iterator[Verdict]:
        """Yield what to report after a look: written for a while, finished, or gone."""
        for key, fingerprint in found.items():
            write = self._writes.get(key)
            if write is None:
                continue
            if fingerprint is None:
                del self._writes[key]
                yield Verdict(key, None, finished=True)
                continue
            if fingerprint != write.fingerprint:
                write.fingerprint, write.changed, write.from_event = fingerprint, now, True
            rest = self._stable if write.from_event else found_rest_seconds(self._stable)
            if now - write.changed >= rest or now - write.begun >= self._cap:
                del self._writes[key]
                yield Verdict(key, fingerprint, finished=True, from_event=write.from_event)
                continue
            if write.from_event and not write.reported and now - write.begun >= REPORT_SECONDS:
                write.reported = True
                yield Verdict(key, fingerprint, finished=False)
            self._plan(key, write, now)


_MOST_NAMES = 16
"""Beyond so many names of one directory the directory stands for all of them."""
_MOST_PATHS = 4096
"""Beyond so many paths the root stands for all of them."""


class Unread:
    """A bounded set of keys and directories (these end with ``/``; ``""`` is the root), each with an errno."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.paths: dict[str, int] = {}
        self._names: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.paths)

    def __len__(self) -> int:
        """How many paths are held."""
        return len(self.paths)

    def note(self, path: str, error: int) -> None:
        """Remember that a look at this path failed."""
        if path in self.paths:
            return
        directory = _directory_of(path)
        if directory != path:
            self._names[directory] += 1
            if self._names[directory] > _MOST_NAMES:
                path = directory
        if len(self.paths) >= _MOST_PATHS:
            self.paths.clear()
            path = ""
        self.paths[path] = error

    def covers(self, directory: str) -> bool:
        """Return whether nothing is known of what is in a directory, because it or one above could not be read."""
        return any(directory.startswith(path if path[-1:] in ("", "/") else path + "/") for path in self.paths)

    def replace(self, prefix: str, found: Unread) -> None:
        """Take what a scan of ``prefix`` could not read in place of what was held there."""
        kept = {path: error for path, error in self.paths.items() if not path.startswith(prefix)}
        self.paths, self._names = {}, Counter()
        for path, error in (*kept.items(), *found.paths.items()):
            self.note(path, error)

    def directories(self) -> list[str]:
        """Return the directories to compare with the index once more."""
        return sorted({_directory_of(path) for path in self.paths})


def _directory_of(path: str) -> str:
    return path[: path.rfind("/") + 1]


_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""No such name, a file on the way, or a link in a circle that leads no server anywhere."""


def means_absent(error: OSError) -> bool:
    """Return whether this error of a look proves absence; after any other nothing is known (EACCES, EIO, ESTALE, …)."""
    return error.errno in _ABSENT


def is_absent(path: bytes) -> bool:
    """Return whether there is surely no such name, not even a link."""
    try:
        os.lstat(path)
    except OSError as error:
        return means_absent(error)
    return False


def is_directory_gone(path: bytes, *, follow: bool = True) -> bool:
    """Return whether there is surely no directory at this path; with ``follow``, one behind a link counts as well."""
    try:
        return not stat.S_ISDIR(os.stat(path.rstrip(b"/") or b"/", follow_symlinks=follow).st_mode)  # noqa: PTH116 - bytes
    except OSError as error:
        return means_absent(error)


_SEARCH_DELAY_SECONDS = 0.2
"""Links are made in numbers: one search answers for all of a moment."""
_SEARCH_REST_FACTOR = 20
"""How many times as long as a search took to rest after it: links made all the time cost a twentieth of a core."""


class Activity:
    """Whether the tree was read, by looks or scans, since a moment of the monotonic clock."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._running = 0
        self._ended = -math.inf

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count as reading until the block ends."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._ended = time.monotonic()

    def since(self, moment: float) -> bool:
        """Return whether anything was read since then, or is read just now."""
        return self._running > 0 or self._ended >= moment


class HardLinks:
    """Which files to search for, and when. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self) -> None:
        """Want nothing yet."""
        self.searches = 0
        self._wanted: dict[int, int] = {}
        self._due = 0.0
        self._rested = 0.0

    def want(self, files: Mapping[int, int], now: float) -> None:
        """Search soon for all names of these files: by number (:func:`.links.file_number`), how many names each has."""
        if files and not self._wanted:
            self._due = max(now + _SEARCH_DELAY_SECONDS, self._rested)
        self._wanted.update(files)

    def next_due(self, now: float) -> float | None:
        """Return in how many seconds to search; ``None`` when nothing is wanted."""
        return max(0.0, self._due - now) if self._wanted else None

    def take(self, now: float) -> dict[int, int]:
        """Return what to search for now; empty when it is not time yet."""
        if self.next_due(now) != 0:
            return {}
        wanted, self._wanted = self._wanted, {}
        return wanted

    def searched(self, began: float, now: float) -> None:
        """Note the end of a search."""
        self.searches += 1
        self._rested = now + _SEARCH_REST_FACTOR * (now - began)
