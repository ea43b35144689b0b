"""
What can go wrong at the API: its error codes, and the faults that can be injected.

A fault is written ``NAME[:ARGUMENT…][,OPTION=VALUE…]``. Options: ``count=N`` (at most N times), ``action=A+B`` (only in
calls of these actions) and ``after=SECONDS`` (only after this much of the emulator's time). Examples: ``throttle:3``,
``slow:2:5,action=RefreshObjectCaches``, ``stuck:/video/:7200``, ``quota-limit:500,50,after=43200``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from listener.errors import ConfigurationError

__all__ = [
    "ACTIONS",
    "FAULT_KINDS",
    "REJECTIONS",
    "Fault",
    "FaultBook",
    "FaultKind",
    "Rejection",
    "fault_help",
    "parse_fault",
]

REJECTIONS: Final[dict[str, tuple[int, str]]] = {
    # from the gateway
    "InvalidAction.NotFound": (404, "The API has no action {action!r} in version {version!r}."),
    "MissingParameter": (400, "The parameter {name} is required."),
    "MissingSecurityToken": (400, "A security token is required with this access key."),
    "IncompleteSignature": (400, "The request is not signed as one of the supported signatures demands."),
    "SignatureDoesNotMatch": (400, "The signature is not the one that this request and the key's secret give."),
    "SignatureNonceUsed": (400, "The signature nonce was used before."),
    "InvalidAccessKeyId.NotFound": (404, "The access key id is not known."),
    "InvalidAccessKeyId.Inactive": (400, "The access key is disabled."),
    "InvalidSecurityToken.Expired": (400, "The security token is no longer valid."),
    "InvalidTimeStamp.Format": (400, "The time stamp is not of the form YYYY-MM-DDThh:mm:ssZ."),
    "InvalidTimeStamp.Expired": (400, "The time stamp is more than 15 minutes away from the server's time."),
    "UnsupportedHTTPMethod": (405, "Only GET and POST are supported."),
    "RequestEntityTooLarge": (413, "The request is larger than {limit_bytes} bytes."),
    "Throttling": (503, "The request was denied due to flow control."),
    "Throttling.User": (400, "The account makes more calls in a second than {action} allows."),
    "Throttling.Api": (400, "The action receives more calls in a second than it allows."),
    "TooManyRequests": (429, "Too many requests."),
    "ServiceUnavailable": (503, "The service is not available at present."),
    "InternalError": (500, "Something failed inside the service."),
    "Forbidden.RAM": (403, "The policy of this access key does not allow the action."),
    "OperationDenied": (403, "The service is not active for this account."),
    "IllegalOperation": (403, "The operation is not allowed."),
    # refreshing and prefetching
    "ServiceBusy": (403, "The domain is being configured; try again later."),
    "InvalidObjectType.ValueNotSupported": (400, "The ObjectType {value!r} is not supported."),
    "InvalidObjectPath.Malformed": (400, "A path in ObjectPath is invalid."),
    "ObjectPath.Malformed": (400, "A path in ObjectPath is invalid."),
    "SingleRequest.OverLimit": (400, "One request takes at most {limit} {what}."),
    "InvalidExtensiveDomain.ValueNotSupported": (400, "A wildcard domain cannot be refreshed."),
    "InvalidDomain.NotFound": (404, "The domain [{domain}] does not belong to you."),
    "InvalidDomain.Offline": (404, "The domain [{domain}] is stopped."),
    "InvalidDomain.Configure_failed": (500, "The configuration of the domain failed."),
    "QuotaPerMinuteExceeded.Refresh": (400, "The domain [{domain}] was refreshed too often in this minute."),
    "QuotaExceeded.Refresh": (400, "The daily quota for refreshing is exceeded."),
    "QuotaExceeded.Preload": (400, "The daily quota for prefetching is exceeded."),
    "TooMany.Refresh": (400, "The refresh queue is full."),
    "PreloadQueueFull": (403, "The prefetch queue is full."),
    # reading tasks
    "MissingParameter.ObjectType": (400, "ObjectType is required with DomainName or Status."),
    "InvalidTaskId.Malformed": (400, "The TaskId is invalid."),
    "InvalidStartTime.Malformed": (400, "The StartTime is not of the form YYYY-MM-DDThh:mm:ssZ."),
    "InvalidEndTime.Malformed": (400, "The EndTime is not of the form YYYY-MM-DDThh:mm:ssZ."),
    "InvalidEndTime.Mismatch": (400, "The EndTime is not later than the StartTime."),
    "InvalidStatus.ValueNotSupported": (400, "The Status {value!r} is not supported."),
    "InvalidPageNumber.ValueNotSupported": (400, "The PageNumber must be from 1 to {limit}."),
    "InvalidPageSize.ValueNotSupported": (400, "The PageSize must be from 1 to {limit}."),
}
"""Code to HTTP status and message. Codes and statuses as the vendor's error tables of the CDN API list them;
``RequestEntityTooLarge`` and the page codes are the emulator's own, since the vendor names none."""

ACTIONS: Final = (
    "RefreshObjectCaches",
    "PushObjectCache",
    "DescribeRefreshTasks",
    "DescribeRefreshTaskById",
    "DescribeRefreshQuota",
)
_COUNT = r"(?::(?P<count>\d+))?"
_SECONDS = r"(?P<seconds>-?\d+(?:\.\d+)?)"
_OPTION = re.compile(r",(count|action|after)=([^,]*)\Z")


class Rejection(Exception):
    """One answer other than 200; ``code`` is a key of :data:`REJECTIONS`."""

    def __init__(self, code: str, *, retry_after_ms: int | None = None, **details: object) -> None:
        """Fill the code's message with ``details``; ``retry_after_ms`` becomes the header ``x-acs-retry-after``."""
        self.code = code
        self.status, message = REJECTIONS[code]
        self.message = message.format_map(_Named(details))
        self.retry_after_ms = retry_after_ms
        super().__init__(self.message)


class _Named(dict[str, object]):
    """Leaves an unnamed detail of an ordered fault as it stands, instead of failing."""

    def __missing__(self, key: str) -> str:
        return _Unnamed(key)


class _Unnamed(str):
    """The name of a detail that nobody gave."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One line of the table."""

    name: str
    pattern: str
    """Matches everything between the name and the options; groups ``count``, ``seconds``, ``text``, ``files``, …"""
    usage: str
    effect: str


FAULT_KINDS: Final[dict[str, FaultKind]] = {
    kind.name: kind
    for kind in (
        FaultKind(
            "throttle",
            _COUNT + rf"(?::{_SECONDS})?",
            "throttle[:COUNT[:SECONDS]]",
            "503 Throttling with x-acs-retry-after (1 second)",
        ),
        FaultKind("error500", _COUNT, "error500[:COUNT]", "500 InternalError"),
        FaultKind("error", r":(?P<text>[\w.]+)" + _COUNT, "error:CODE[:COUNT]", "any error code of the API"),
        FaultKind("reset", _COUNT, "reset[:COUNT]", "the connection is reset; the request is not accepted"),
        FaultKind("accept-then-reset", _COUNT, "accept-then-reset[:COUNT]", "accepted, then the connection is reset"),
        FaultKind("accept-then-timeout", _COUNT, "accept-then-timeout[:COUNT]", "accepted, then no answer for an hour"),
        FaultKind(
            "slow",
            rf":{_SECONDS}" + _COUNT,
            "slow:SECONDS[:COUNT]",
            "the call is accepted, and answered, this much later",
        ),
        FaultKind("quota", _COUNT, "quota[:COUNT]", "QuotaExceeded.Refresh or .Preload, though quota is left"),
        FaultKind("malformed", r":(?P<text>.+)", "malformed:SUBSTRING", "a path that contains it is malformed"),
        FaultKind(
            "domain-not-found",
            r":(?P<text>.+)",
            "domain-not-found:HOST",
            "InvalidDomain.NotFound, with or without port",
        ),
        FaultKind(
            "stuck",
            rf":(?P<text>.+?)(?::{_SECONDS})?",
            "stuck:SUBSTRING[:SECONDS]",
            "a path that contains it stays Refreshing, for ever or this long",
        ),
        FaultKind(
            "fail",
            r":(?P<text>.+?)" + _COUNT,
            "fail:SUBSTRING[:COUNT]",
            "the next path (or COUNT paths) that contains it ends as Failed, its neighbours do not",
        ),
        FaultKind("absent", rf":{_SECONDS}", "absent:SECONDS", "a task is not found until this long after it was made"),
        FaultKind(
            "late-status",
            rf":{_SECONDS}",
            "late-status:SECONDS",
            "reading a task starts an update, which shows this much later",
        ),
        FaultKind(
            "not-modified",
            r"(?::(?P<text>.+))?",
            "not-modified[:SUBSTRING]",
            "the origin answers every revalidation with 304, changed or not",
        ),
        FaultKind(
            "quota-limit",
            r":(?P<files>\d+),(?P<directories>\d+)",
            "quota-limit:FILES,DIRECTORIES",
            "the daily limits are these from now on",
        ),
        FaultKind("clock-skew", rf":{_SECONDS}", "clock-skew:SECONDS", "the server's clock is this much ahead"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injected fault."""

    name: str
    """A key of :data:`FAULT_KINDS`."""
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


def parse_fault(spec: str) -> Fault:
    """Parse a fault. Raise :class:`ConfigurationError`, naming the correct form, when it is wrong."""
    rest, options = spec.strip(), {}
    while match := _OPTION.search(rest):
        options[match[1]] = match[2]
        rest = rest[: match.start()]
    name = rest.partition(":")[0]
    kind = FAULT_KINDS.get(name)
    if kind is None:
        raise ConfigurationError(f"No fault is called {name!r}.", hint=f"Known faults: {', '.join(FAULT_KINDS)}.")
    arguments = re.fullmatch(kind.pattern, rest[len(name) :])
    if arguments is None:
        raise ConfigurationError(f"The fault {spec!r} is not of the form {kind.usage}.", hint=kind.effect)
    try:
        return _fault(spec, name, arguments.groupdict(), options)
    except ValueError as error:
        raise ConfigurationError(
            f"The fault {spec!r} cannot be used: {error}.", hint=f"Its form is {kind.usage}."
        ) from error


def _fault(spec: str, name: str, arguments: dict[str, str | None], options: dict[str, str]) -> Fault:
    count, seconds, text = (
        options.get("count") or arguments.get("count"),
        arguments.get("seconds"),
        arguments.get("text"),
    )
    actions = frozenset(filter(None, options.get("action", "").split("+")))
    if unknown := actions - set(ACTIONS):
        raise ValueError(f"no action is called {', '.join(sorted(unknown))}")
    if name == "error" and text not in REJECTIONS:
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


def fault_help() -> str:
    """Return the table of faults as lines of text, for ``--help`` and the control endpoint."""
    width = max(len(kind.usage) for kind in FAULT_KINDS.values())
    lines = [f"{kind.usage:<{width}}  {kind.effect}" for kind in FAULT_KINDS.values()]
    return "\n".join([*lines, "Options of each: ,count=N  ,action=ACTION+ACTION  ,after=SECONDS"])


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
