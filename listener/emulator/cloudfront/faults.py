"""
What can go wrong at CloudFront's API: its errors, and its faults.

Codes and statuses are those of AWS's service model, or of its common errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from listener.emulator.faults import COUNT, SECONDS, SHARED_FAULTS, FaultKind, FaultTable, Refusal

__all__ = ["ERRORS", "FAULTS", "Problem"]

ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "AccessDenied": (403, "User is not authorized to perform: cloudfront:{action} on resource: {distribution}"),
    "BatchTooLarge": (413, "The number of paths, {paths}, is greater than the {most} that one invalidation may have."),
    "ExpiredToken": (403, "The security token included in the request is expired"),
    "InconsistentQuantities": (400, "The value of Quantity and the size of Items don't match."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidArgument": (400, "Your request contains one or more invalid invalidation paths."),
    "InvalidClientTokenId": (403, "The security token included in the request is invalid."),
    "InvalidationBatchAlreadyExists": (400, "Your request contains a caller reference that was used before."),
    "MalformedXML": (400, "The XML that you provided was not well formed."),
    "MissingAuthenticationToken": (403, "Request is missing Authentication Token"),
    "MissingBody": (400, "This operation requires a body. Ensure that the body is present."),
    "NoSuchDistribution": (404, "The specified distribution does not exist."),
    "NoSuchInvalidation": (404, "The specified invalidation does not exist."),
    "ServiceUnavailable": (503, "CloudFront is temporarily unavailable"),
    "SignatureDoesNotMatch": (403, "{reason}"),
    "Throttling": (400, "Rate exceeded"),
    "TooManyInvalidationsInProgress": (400, "Processing your request will cause you to exceed the maximum: {most}."),
}
"""Code to HTTP status and message."""


class Problem(Refusal):
    """One answer without success; ``code`` is a key of :data:`ERRORS`."""

    def __init__(self, code: str, **details: object) -> None:
        """Fill the code's message with ``details``."""
        self.code = code
        self.status, message = ERRORS[code]
        self.message = re.sub(r"\{(\w+)\}", lambda match: str(details.get(match[1], match[1])), message)
        super().__init__(self.message)


ACTIONS: Final = ("CreateInvalidation", "GetInvalidation", "ListInvalidations")
FAULTS: Final = FaultTable(
    {
        kind.name: kind
        for kind in (
            *SHARED_FAULTS,
            FaultKind("throttle", COUNT, "throttle[:COUNT]", "400 Throttling"),
            FaultKind("busy", COUNT, "busy[:COUNT]", "400 TooManyInvalidationsInProgress"),
            FaultKind("error500", COUNT, "error500[:COUNT]", "500 InternalError"),
            FaultKind("error", r":(?P<text>\w+)" + COUNT, "error:CODE[:COUNT]", "any error code of the API"),
            FaultKind("malformed", r":(?P<text>.+)", "malformed:SUBSTRING", "a path that contains it is invalid"),
            FaultKind(
                "stuck",
                rf":(?P<text>.+?)(?::{SECONDS})?",
                "stuck:SUBSTRING[:SECONDS]",
                "an invalidation with such a path stays InProgress, for ever or this long",
            ),
        )
    },
    ACTIONS,
    ERRORS,
)
