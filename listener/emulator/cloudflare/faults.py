"""
What can go wrong at Cloudflare's API: its errors, and its faults.

Codes and texts are the vendor's as far as they are published, and else ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from listener.emulator.faults import COUNT, SECONDS, SHARED_FAULTS, FaultKind, FaultTable, Refusal

__all__ = ["ERRORS", "FAULTS", "LISTS", "PURGES", "Problem"]

PURGES: Final = {"purge_cache": True, "invalidate_cache": False}
"""Action to whether it drops copies, instead of marking them stale."""
LISTS: Final = ("files", "prefixes", "hosts", "tags")
ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "1000": (401, "Invalid API Token"),
    "6003": (400, "Invalid request headers"),
    "7003": (
        404,
        "Could not route to /client/v4/zones/{zone}, perhaps your object identifier is invalid?",
    ),
    "9109": (403, "Unauthorized to access requested resource"),
    "10000": (403, "Authentication error"),
    "1012": (400, "Request must contain one of 'purge_everything', 'files', 'tags', 'hosts' or 'prefixes'"),
    "1016": (400, "Unable to purge {item}, which is an invalid URL"),
    "1017": (400, "Unable to purge {item}, which is an invalid {what} of this zone"),
    "1094": (400, "Unable to purge, please limit your request to {most} {what}"),
    "1107": (400, "Only enterprise zones can purge by {what}."),
    "1134": (429, "Unable to purge, rate limit reached. Please wait if you need to perform more operations"),
    "10001": (500, "Internal server error"),
    "413": (413, "The request is too large"),
}
"""Code to HTTP status and message."""


class Problem(Refusal):
    """One answer without success; ``code`` is a key of :data:`ERRORS`."""

    def __init__(self, code: str, *, retry_after_seconds: float | None = None, **details: object) -> None:
        """Fill the code's message with ``details``."""
        self.code = code
        self.status, message = ERRORS[code]
        self.message = re.sub(r"\{(\w+)\}", lambda match: str(details.get(match[1], match[1])), message)
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


ACTIONS: Final = (*PURGES, "list_zones", "get_zone", "verify")
FAULTS: Final = FaultTable(
    {
        kind.name: kind
        for kind in (
            *SHARED_FAULTS,
            FaultKind(
                "throttle",
                COUNT + rf"(?::{SECONDS})?",
                "throttle[:COUNT[:SECONDS]]",
                "429 with Retry-After (1 second)",
            ),
            FaultKind("error500", COUNT, "error500[:COUNT]", "500"),
            FaultKind("error", r":(?P<text>[\w.]+)" + COUNT, "error:CODE[:COUNT]", "any error code of the API"),
            FaultKind("malformed", r":(?P<text>.+)", "malformed:SUBSTRING", "what contains it is an invalid URL"),
            FaultKind(
                "plan-lacks", r":(?P<text>prefixes|hosts|tags)", "plan-lacks:KIND", "the plan has no such purges"
            ),
        )
    },
    ACTIONS,
    ERRORS,
)
