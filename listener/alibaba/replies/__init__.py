"""
What Alibaba Cloud's CDN answers, and what to do about it; pure.

``reading`` parses bodies and headers, ``error_codes`` holds the one table from error code to remedy.
"""

from __future__ import annotations

from listener.alibaba.replies.error_codes import CLOCK_TOLERANCE_SECONDS, Remedy, classify, rule_for
from listener.alibaba.replies.reading import (
    Failure,
    ReplyError,
    clock_skew_seconds,
    parse_failure,
    parse_object,
    parse_quota,
    parse_receipt,
    parse_tasks,
    scrub,
)

__all__ = [
    "CLOCK_TOLERANCE_SECONDS",
    "Failure",
    "Remedy",
    "ReplyError",
    "classify",
    "clock_skew_seconds",
    "parse_failure",
    "parse_object",
    "parse_quota",
    "parse_receipt",
    "parse_tasks",
    "rule_for",
    "scrub",
]
