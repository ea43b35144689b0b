"""
The exceptions, grouped by remedy: by what the caller can do about them.

::

    ListenerError                  .hint for the operator; exit status 1
    ├── ConfigurationError         correct the configuration or the call; exit status 2
    ├── SourceError
    │   ├── SourceUnavailable      try again later
    │   └── MalformedNotification  keep the message as a dead letter
    ├── KeyRejected                this key can never be a URL: reject it
    ├── StoreError                 stop accepting deliveries, stay up, report it
    │   ├── StoreUnusable          corrupt, foreign or newer: never changed; exit status 1
    │   └── StoreBusy              another process owns it
    └── TargetError                .code, .request_id of the CDN
        ├── NotSent                certainly not accepted, nothing was spent
        │   ├── Unavailable        try again with back-off
        │   ├── Throttled          wait .retry_after_seconds, then try again
        │   ├── WindowFull         wait with this kind of request (.retry_after_seconds)
        │   ├── QuotaExhausted     an allowance (.allowance) is used up: wait for its reset
        │   ├── BatchTooLarge      split and send the halves
        │   ├── BatchRejected      some URLs (.urls, .domain) are bad: split where none is named
        │   └── Misconfigured      stop sending, report it: credentials, permission, account, clock
        │       └── NotInPlan      stop sending this kind of request, report it: the plan has none
        └── OutcomeUnknown         accepted or not: settled as the target declares
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = [
    "BatchRejected",
    "BatchTooLarge",
    "ConfigurationError",
    "Fenced",
    "KeyRejected",
    "ListenerError",
    "MalformedNotification",
    "Misconfigured",
    "NotInPlan",
    "NotSent",
    "OutcomeUnknown",
    "QuotaExhausted",
    "SendingEnded",
    "SourceError",
    "SourceUnavailable",
    "StoreBusy",
    "StoreError",
    "StoreUnusable",
    "TargetError",
    "Throttled",
    "Unavailable",
    "WindowFull",
    "advised",
]


class ListenerError(Exception):
    """An expected error; the message defaults to the first line of the class docstring."""

    exit_status = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep what happened (``message``) and what to do about it (``hint``)."""
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.hint = hint
        self.parts: Sequence[tuple[str, str]] = ()
        """Of several errors at once each message with its hint; the message of this one then has all of them."""


class ConfigurationError(ListenerError):
    """A setting, an argument or a credential is missing or wrong."""

    exit_status = 2


class SourceError(ListenerError):
    """A source failed."""


class SourceUnavailable(SourceError):
    """A source cannot be read at present."""


class MalformedNotification(SourceError):
    """A message is not in any known form."""


class KeyRejected(ListenerError):
    """A key can never be a URL that refreshes only itself."""


class StoreError(ListenerError):
    """The state file failed."""


class StoreUnusable(StoreError):
    """The state file is corrupt, foreign or of a newer version; it was not changed."""


class StoreBusy(StoreError):
    """Another process owns this state file."""


class Fenced(StoreError):
    """Another process leads this account now; nothing was written."""


def advised(what: str, hint: str) -> str:
    """Return what happened together with what to do about it, where something is known."""
    return f"{what} ({hint})" if hint else what


class TargetError(ListenerError):
    """A CDN could not fulfil a request."""

    def __init__(self, message: str = "", *, hint: str = "", code: str = "", request_id: str = "") -> None:
        """Keep the CDN's error code and request id, besides message and hint."""
        super().__init__(message, hint=hint)
        self.code = code
        self.request_id = request_id


class NotSent(TargetError):
    """The CDN certainly did not accept the request; no quota was spent."""


class SendingEnded(NotSent):
    """This process may not send any more; no request was handed to the network as a whole."""


class Unavailable(NotSent):
    """The CDN cannot be reached, or is busy."""


class Throttled(NotSent):
    """The CDN requests fewer calls."""

    def __init__(self, message: str = "", *, retry_after_seconds: float, code: str = "", request_id: str = "") -> None:
        """Keep how long to wait before the next try, in seconds."""
        super().__init__(message, code=code, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds


class WindowFull(Throttled):
    """The limit of this minute, or whatever refills, is used up for this kind of request; others go on."""


class QuotaExhausted(NotSent):
    """An allowance is used up."""

    def __init__(
        self, message: str = "", *, allowance: str | None = None, hint: str = "", code: str = "", request_id: str = ""
    ) -> None:
        """Keep the allowance's name; None where the CDN does not say which, so that all that refreshes waits."""
        super().__init__(message, hint=hint, code=code, request_id=request_id)
        self.allowance = allowance


class BatchTooLarge(NotSent):
    """The request has more URLs than the CDN accepts at once."""


class BatchRejected(NotSent):
    """The CDN rejected the whole request because of some of its URLs, or one domain."""

    def __init__(
        self,
        message: str = "",
        *,
        domain: str | None = None,
        urls: Collection[str] = (),
        hint: str = "",
        code: str = "",
        request_id: str = "",
    ) -> None:
        """Keep the domain or the URLs, as they were sent, that the CDN named as the culprits, if it named any."""
        super().__init__(message, hint=hint, code=code, request_id=request_id)
        self.domain = domain
        self.urls = frozenset(urls)


class Misconfigured(NotSent):
    """The CDN rejects this account, key, permission or clock; no request can succeed."""


class NotInPlan(Misconfigured):
    """The plan of this account has no such kind of request; others go on."""


class OutcomeUnknown(TargetError):
    """The request may have been accepted; the answer did not arrive."""
