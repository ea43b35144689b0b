"""
Faults that can be injected, at any CDN; each has a table of its own faults besides these.

A fault is written ``NAME[:ARGUMENT…][,OPTION=VALUE…]``. Options: ``count=N`` (at most N times), ``action=A+B`` (only in
calls of these actions) and ``after=SECONDS`` (only after this much of the emulator's time). Examples: ``throttle:3``,
``slow:2:5,action=RefreshObjectCaches``, ``stuck:/video/:7200``, ``quota-limit:500,50,after=43200``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from listener.errors import ConfigurationError

__all__ = ["COUNT", "SECONDS", "SHARED_FAULTS", "Fault", "FaultBook", "FaultKind", "FaultTable", "Refusal"]

COUNT = r"(?::(?P<count>\d+))?"
POINT = r"(?::(?P<text>pop\d+))?"
SECONDS = r"(?P<seconds>-?\d+(?:\.\d+)?)"
_OPTION = re.compile(r",(count|action|after)=([^,]*)\Z")


class Refusal(Exception):
    """One answer other than success; each CDN has a subclass with its own codes."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One line of the table."""

    name: str
    pattern: str
    """Matches everything between the name and the options; groups ``count``, ``seconds``, ``text``, ``files``, …"""
    usage: str
    effect: str


SHARED_FAULTS: Final[tuple[FaultKind, ...]] = (
    FaultKind("reset", COUNT, "reset[:COUNT]", "the connection is reset; the request is not accepted"),
    FaultKind("accept-then-reset", COUNT, "accept-then-reset[:COUNT]", "accepted, then the connection is reset"),
    FaultKind("accept-then-timeout", COUNT, "accept-then-timeout[:COUNT]", "accepted, then no answer for an hour"),
    FaultKind(
        "slow",
        rf":{SECONDS}" + COUNT,
        "slow:SECONDS[:COUNT]",
        "the call is accepted, and answered, this much later",
    ),
    FaultKind(
        "not-modified",
        r"(?::(?P<text>.+))?",
        "not-modified[:SUBSTRING]",
        "the origin answers every revalidation with 304, changed or not",
    ),
    FaultKind("clock-skew", rf":{SECONDS}", "clock-skew:SECONDS", "the server's clock is this much ahead"),
    FaultKind(
        "edge-ignores", POINT, "edge-ignores[:POP]", "refreshes have no effect at one point of presence, or at all"
    ),
    FaultKind("edge-lags", rf":{SECONDS}{POINT}", "edge-lags:SECONDS[:POP]", "they take effect so much later there"),
    FaultKind("edge-revalidates", POINT, "edge-revalidates[:POP]", "what is refreshed is served once more from there"),
    FaultKind("edge-no-age", POINT, "edge-no-age[:POP]", "answers from there have no Age"),
    FaultKind("edge-tags", POINT, "edge-tags[:POP]", "answers from there have other entity tags"),
    FaultKind("edge-head", POINT, "edge-head[:POP]", "HEAD goes to the origin from there, GET to the cache"),
    FaultKind("edge-redirects", POINT, "edge-redirects[:POP]", "every URL is redirected there"),
    FaultKind("edge-fails", POINT, "edge-fails[:POP]", "every request is answered with 503 there"),
    FaultKind("edge-slow", rf":{SECONDS}{POINT}", "edge-slow:SECONDS[:POP]", "answers from there come so much later"),
)
"""Those of every CDN."""


@dataclass(frozen=True, slots=True)
class FaultTable:
    """What can go wrong at one CDN."""

    kinds: Mapping[str, FaultKind]
    """By name."""
    actions: tuple[str, ...]
    codes: Collection[str] = ()
    """What ``error:CODE`` may name."""

    def parse(self, spec: str) -> Fault:
        """Parse a fault. Raise :class:`ConfigurationError`, naming the correct form, when it is wrong."""
        return _parse(spec, self)

    def help(self) -> str:
        """Return the table as lines of text, for ``--help`` and the control endpoint."""
        width = max(len(kind.usage) for kind in self.kinds.values())
        lines = [f"{kind.usage:<{width}}  {kind.effect}" for kind in self.kinds.values()]
        return "\n".join([*lines, "Options of each: ,count=N  ,action=ACTION+ACTION  ,after=SECONDS"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injected fault."""

    name: str
    """A key of :attr:`FaultTable.kinds`."""
    spec: str = ""
    """As written."""
    text: str = ""
    """A substring of a path, a host or an error code."""
    seconds: float | None = None
    count: int | None = None
    """How many more times; ``None`` for always."""
    actions: frozenset[str] = frozenset()
    """In calls of these only; empty for all."""
    after_seconds: float = 0.0
    """Only after this much of the emulator's time has passed."""
    limits: tuple[int, int] | None = None
    """Files and directories of ``quota-limit``."""


def _parse(spec: str, table: FaultTable) -> Fault:
    rest, options = spec.strip(), {}
    while match := _OPTION.search(rest):
        options[match[1]] = match[2]
        rest = rest[: match.start()]
    name = rest.partition(":")[0]
    kind = table.kinds.get(name)
    if kind is None:
        raise ConfigurationError(f"No fault is called {name!r}.", hint=f"Known faults: {', '.join(table.kinds)}.")
    arguments = re.fullmatch(kind.pattern, rest[len(name) :])
    if arguments is None:
        raise ConfigurationError(f"The fault {spec!r} is not of the form {kind.usage}.", hint=kind.effect)
    try:
        return _fault(spec, name, arguments.groupdict(), options, table)
    except ValueError as error:
        raise ConfigurationError(
            f"The fault {spec!r} cannot be used: {error}.", hint=f"Its form is {kind.usage}."
        ) from error


def _fault(spec: str, name: str, arguments: dict[str, str | None], options: dict[str, str], table: FaultTable) -> Fault:
    count, seconds, text = (
        options.get("count") or arguments.get("count"),
        arguments.get("seconds"),
        arguments.get("text"),
    )
    actions = frozenset(filter(None, options.get("action", "").split("+")))
    if unknown := actions - set(table.actions):
        raise ValueError(f"no action is called {', '.join(sorted(unknown))}")
    if name == "error" and text not in table.codes:
        raise ValueError(f"the emulator has no error code {text!r}")
    files, directories = arguments.get("files"), arguments.get("directories")
    return Fault(
        name=name,
        spec=spec,
        text=text or "",
        seconds=None if seconds is None else float(seconds),
        count=int(count) if count else (1 if name == "fail" else None),
        actions=actions,
        after_seconds=float(options.get("after") or 0),
        limits=(int(files), int(directories)) if files and directories else None,
    )


class FaultBook:
    """The active faults, used up one at a time; time is an argument."""

    def __init__(self, faults: Iterable[Fault] = (), *, now: float = 0.0) -> None:
        """Start with these faults, injected at ``now`` (seconds since the epoch)."""
        self._orders: list[tuple[float, Fault]] = []
        for fault in faults:
            self.order(fault, now)

    def order(self, fault: Fault, now: float) -> None:
        """Inject a fault at ``now``."""
        self._orders.append((now + fault.after_seconds, fault))

    def clear(self, name: str | None = None) -> None:
        """Remove all faults, or those of one name."""
        self._orders = [entry for entry in self._orders if name is not None and entry[1].name != name]

    def clear_one(self, fault: Fault) -> None:
        """Remove one fault that is used up."""
        self._orders = [entry for entry in self._orders if entry[1] is not fault]

    def standing(self) -> list[dict[str, object]]:
        """Return the active faults, for the control endpoint."""
        return [{"fault": fault.spec, "left": fault.count, "from": start} for start, fault in self._orders]

    def take(
        self, name: str, now: float, *, action: str = "", matches: Callable[[Fault], bool] = lambda _: True
    ) -> Fault | None:
        """Return the first fault of this name that applies, and use it once; ``None`` if there is none."""
        for index, (start, fault) in enumerate(self._orders):
            if fault.name == name and start <= now and _applies(fault, action) and matches(fault):
                self._use(index)
                return fault
        return None

    def take_containing(self, name: str, text: str, now: float, *, action: str = "") -> Fault | None:
        """Return, and use once, the first fault of this name whose substring occurs in ``text``."""
        return self.take(name, now, action=action, matches=lambda fault: fault.text in text)

    def any(self, name: str) -> bool:
        """Return whether a fault of this name is active: avoids a search for each path of a batch."""
        return any(fault.name == name for _, fault in self._orders)

    def seconds(self, name: str, now: float, *, action: str = "") -> float:
        """Return the seconds of a fault that applies, or 0."""
        fault = self.take(name, now, action=action)
        return fault.seconds or 0.0 if fault else 0.0

    def _use(self, index: int) -> None:
        start, fault = self._orders[index]
        if fault.count == 1:
            del self._orders[index]
        elif fault.count is not None:
            self._orders[index] = (start, replace(fault, count=fault.count - 1))


def _applies(fault: Fault, action: str) -> bool:
    return not fault.actions or action in fault.actions
