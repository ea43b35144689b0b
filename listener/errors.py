"""
The exception family, drawn by remedy: a branch is what the caller can do about it.

::

    ListenerError                  .hint for the operator; exit status 1
    ├── ConfigurationError         mend the configuration or the call; exit status 2
    ├── SourceError
    │   ├── SourceUnavailable      try again later
    │   └── MalformedNotification  set the message aside, with its body
    ├── KeyRejected                this key can never be a URL: park it
    ├── StoreError                 stop taking deliveries, stay up, say so
    │   ├── StoreUnusable          corrupt, foreign or newer: never touched; exit status 1
    │   └── StoreBusy              another process owns it
    └── TargetError                .code, .request_id of the CDN
        ├── NotSent                surely not accepted, nothing was spent
        │   ├── Unavailable        try again with back-off
        │   ├── Throttled          wait .retry_after_seconds, then try again
        │   ├── WindowFull         wait for the next minute (.retry_after_seconds)
        │   ├── QuotaExhausted     wait for the reset of the day
        │   ├── BatchTooLarge      split and send the halves
        │   ├── BatchRejected      one URL or one .domain is bad: split until it is found
        │   └── Misconfigured      stop sending, say so: credentials, permission, account, clock
        └── OutcomeUnknown         accepted or not: ask the task list before anything else
"""

from __future__ import annotations

__all__ = [
    "BatchRejected",
    "BatchTooLarge",
    "ConfigurationError",
    "KeyRejected",
    "ListenerError",
    "MalformedNotification",
    "Misconfigured",
    "NotSent",
    "OutcomeUnknown",
    "QuotaExhausted",
    "SourceError",
    "SourceUnavailable",
    "StoreBusy",
    "StoreError",
    "StoreUnusable",
    "TargetError",
    "Throttled",
    "Unavailable",
    "WindowFull",
]


class ListenerError(Exception):
    """Something that the product expects to go wrong; the message defaults to the class's first line."""

    exit_status = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep what happened (``message``) and what to do about it (``hint``)."""
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.hint = hint


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
    """The state file is corrupt, foreign or of a newer version; it was left as it is."""


class StoreBusy(StoreError):
    """Another process works on this state file."""


class TargetError(ListenerError):
    """A CDN could not do what it was asked."""

    def __init__(self, message: str = "", *, hint: str = "", code: str = "", request_id: str = "") -> None:
        """Keep the CDN's own error code and request id beside message and hint."""
        super().__init__(message, hint=hint)
        self.code = code
        self.request_id = request_id


class NotSent(TargetError):
    """The CDN surely did not accept the request; no quota was spent."""


class Unavailable(NotSent):
    """The CDN cannot be reached, or is busy."""


class Throttled(NotSent):
    """The CDN asks for fewer calls."""

    def __init__(self, message: str = "", *, retry_after_seconds: float, code: str = "", request_id: str = "") -> None:
        """Keep how long to wait before the next try, in seconds."""
        super().__init__(message, code=code, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds


class WindowFull(Throttled):
    """The limit of this minute is used up."""


class QuotaExhausted(NotSent):
    """The quota of this day is used up."""


class BatchTooLarge(NotSent):
    """The request holds more URLs than the CDN takes at once."""


class BatchRejected(NotSent):
    """The CDN refused the whole request because of one of its URLs or domains."""

    def __init__(self, message: str = "", *, domain: str | None = None, code: str = "", request_id: str = "") -> None:
        """Keep the domain that the CDN named as the culprit, if it named one."""
        super().__init__(message, code=code, request_id=request_id)
        self.domain = domain


class Misconfigured(NotSent):
    """The CDN refuses this account, key, permission or clock; no request can succeed."""


class OutcomeUnknown(TargetError):
    """The request may have been accepted; the answer did not arrive."""
