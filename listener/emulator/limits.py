"""What an account may still do: the quota of the day by kind, paths by domain and minute, calls by second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from listener.clock import window_start
from listener.emulator.rejections import Rejection
from listener.refresh import RefreshKind

__all__ = ["CallRates", "MinuteRates", "QuotaLedger"]

MINUTE_SECONDS = 60


class QuotaLedger:
    """Units accepted per quota day (00:00 UTC+8 to the next) and kind; what is not accepted costs nothing."""

    def __init__(self, limits: Mapping[RefreshKind, int]) -> None:
        """Start with a day's limit for each kind."""
        self.limits = dict(limits)
        self._spent: dict[int, Counter[RefreshKind]] = {}

    def spent(self, kind: RefreshKind, now: float) -> int:
        """Return the units accepted in the quota day that holds ``now``."""
        return self._spent.get(window_start(now), Counter())[kind]

    def remaining(self, kind: RefreshKind, now: float) -> int:
        """Return what is left of the day; never below zero, even when the limit was lowered meanwhile."""
        return max(0, self.limits[kind] - self.spent(kind, now))

    def spend(self, kind: RefreshKind, units: int, now: float) -> None:
        """Take ``units`` from the day, all or none. Raise :class:`Rejection` when more than what is left is asked."""
        if units > self.remaining(kind, now):
            raise Rejection("QuotaExceeded.Preload" if kind is RefreshKind.PREFETCH else "QuotaExceeded.Refresh")
        self._spent.setdefault(window_start(now), Counter())[kind] += units

    def windows(self) -> dict[int, dict[str, int]]:
        """Return the units accepted so far: start of the quota day (seconds since the epoch) to kind to units."""
        return {start: {kind.value: units for kind, units in spent.items()} for start, spent in self._spent.items()}


class CallRates:
    """How many calls each action took in the running second."""

    def __init__(self, per_second: Mapping[str, int]) -> None:
        """Keep the calls that each action allows in a second."""
        self._per_second = per_second
        self._second = -1
        self._calls: Counter[str] = Counter()

    def take(self, action: str, now: float) -> None:
        """Count a call. Raise :class:`Rejection` with the rest of the second as ``retry_after_ms`` when full."""
        if int(now) != self._second:
            self._second = int(now)
            self._calls.clear()
        if self._calls[action] >= self._per_second[action]:
            raise Rejection("Throttling.User", action=action, retry_after_ms=max(1, int((1 - now % 1) * 1000)))
        self._calls[action] += 1


class MinuteRates:
    """How many paths of each kind each domain took in the running minute."""

    def __init__(self, per_minute: Mapping[RefreshKind, int]) -> None:
        """Keep the paths that a domain allows in a minute; a kind that is not named has no such limit."""
        self._per_minute = per_minute
        self._minute = -1
        self._paths: Counter[tuple[str, RefreshKind]] = Counter()

    def check(self, kind: RefreshKind, paths_by_domain: Mapping[str, int], now: float) -> None:
        """Raise :class:`Rejection` when one of the domains has no room left in this minute for its paths."""
        if int(now // MINUTE_SECONDS) != self._minute:
            self._minute = int(now // MINUTE_SECONDS)
            self._paths.clear()
        limit = self._per_minute.get(kind)
        for domain, paths in paths_by_domain.items():
            if limit is not None and self._paths[domain, kind] + paths > limit:
                raise Rejection("QuotaPerMinuteExceeded.Refresh", domain=domain)

    def count(self, kind: RefreshKind, paths_by_domain: Mapping[str, int]) -> None:
        """Count paths that were checked and accepted."""
        for domain, paths in paths_by_domain.items():
            self._paths[domain, kind] += paths
