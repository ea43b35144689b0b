"""What can go wrong at Alibaba's API: its error codes, and its faults."""

from __future__ import annotations

from typing import Final

from listener.emulator.faults import COUNT, SECONDS, SHARED_FAULTS, FaultKind, Refusal

__all__ = ["FAULT_KINDS", "REJECTIONS", "Rejection"]

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
    # sites of ESA; its documentation lists no codes, so that these are the emulator's own
    "SiteNotFound": (404, "The account has no site {site}."),
    "InvalidParameter": (400, "The parameter {name} is invalid."),
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


class Rejection(Refusal):
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


FAULT_KINDS: Final[dict[str, FaultKind]] = {
    kind.name: kind
    for kind in (
        *SHARED_FAULTS,
        FaultKind(
            "throttle",
            COUNT + rf"(?::{SECONDS})?",
            "throttle[:COUNT[:SECONDS]]",
            "503 Throttling with x-acs-retry-after (1 second)",
        ),
        FaultKind("error500", COUNT, "error500[:COUNT]", "500 InternalError"),
        FaultKind("error", r":(?P<text>[\w.]+)" + COUNT, "error:CODE[:COUNT]", "any error code of the API"),
        FaultKind("quota", COUNT, "quota[:COUNT]", "QuotaExceeded.Refresh or .Preload, though quota is left"),
        FaultKind("malformed", r":(?P<text>.+)", "malformed:SUBSTRING", "a path that contains it is malformed"),
        FaultKind(
            "domain-not-found",
            r":(?P<text>.+)",
            "domain-not-found:HOST",
            "InvalidDomain.NotFound, with or without port",
        ),
        FaultKind(
            "stuck",
            rf":(?P<text>.+?)(?::{SECONDS})?",
            "stuck:SUBSTRING[:SECONDS]",
            "a path that contains it stays Refreshing, for ever or this long",
        ),
        FaultKind(
            "fail",
            r":(?P<text>.+?)" + COUNT,
            "fail:SUBSTRING[:COUNT]",
            "the next path (or COUNT paths) that contains it ends as Failed, its neighbours do not",
        ),
        FaultKind("absent", rf":{SECONDS}", "absent:SECONDS", "a task is not found until this long after it was made"),
        FaultKind(
            "late-status",
            rf":{SECONDS}",
            "late-status:SECONDS",
            "reading a task starts an update, which shows this much later",
        ),
        FaultKind(
            "quota-limit",
            r":(?P<files>\d+),(?P<directories>\d+)",
            "quota-limit:FILES,DIRECTORIES",
            "the daily limits are these from now on",
        ),
    )
}
