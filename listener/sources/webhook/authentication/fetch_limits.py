"""A cache for fetched certificates, and the limits of fetches for each sender."""

from __future__ import annotations

from collections import OrderedDict, deque
from http import HTTPStatus
from typing import Final, Generic, TypeVar

from listener.serving import HTTPRejection, client_of

__all__ = ["ExpiringCache", "FetchLimits"]

T = TypeVar("T")

MOST_AT_ONCE: Final = 96
"""Fetches at once, of all senders: each is an open file, of those that are reserved for other things than listening."""
SENDER_AT_ONCE: Final = 64
"""Fetches at once for one sender: 20 a second that each take the whole three seconds leave room for a genuine one."""
SENDER_A_MINUTE: Final = 1_500
"""Fetches a minute for one sender: 25 a second."""
MOST_SENDERS: Final = 1_024


class ExpiringCache(Generic[T]):
    """Values by name, each until a time, a bounded number of them: the one used longest ago goes first."""

    def __init__(self, most: int) -> None:
        """Hold none."""
        self._most = most
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def get(self, name: str, now: float) -> T | None:
        """Return the value of a name, unless its time is over."""
        value, until = self._values.get(name, (None, 0.0))
        if value is None or now >= until:
            return None
        self._values.move_to_end(name)
        return value

    def put(self, name: str, value: T, until: float) -> None:
        """Keep a value until a time."""
        self._values[name] = value, until
        self._values.move_to_end(name)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, name: str) -> None:
        """Keep a value no longer."""
        self._values.pop(name, None)


class FetchLimits:
    """How many fetches each sender may cause, at once and in a minute; a sender is what :func:`client_of` counts."""

    def __init__(self) -> None:
        """Have caused none."""
        self._under_way: dict[str, int] = {}
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, sender: str, now: float) -> None:
        """Count a fetch that begins now. Raise :class:`HTTPRejection` with 503 where there are too many."""
        sender = client_of(sender)
        begun = self._begun.setdefault(sender, deque(maxlen=SENDER_A_MINUTE))
        self._begun.move_to_end(sender)
        if len(self._begun) > MOST_SENDERS:
            self._begun.popitem(last=False)
        is_fast = len(begun) == SENDER_A_MINUTE and now - begun[0] < 60
        at_once = self._under_way.get(sender, 0)
        if is_fast or at_once >= SENDER_AT_ONCE or sum(self._under_way.values()) >= MOST_AT_ONCE:
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "too many certificates are being fetched")
        begun.append(now)
        self._under_way[sender] = at_once + 1

    def end(self, sender: str) -> None:
        """Count a fetch as ended."""
        sender = client_of(sender)
        self._under_way[sender] -= 1
        if not self._under_way[sender]:
            del self._under_way[sender]
