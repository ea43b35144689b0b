"""
The emulated CloudFront: distributions, invalidations with their status, the free paths of a month, and limits.

An invalidation is ``InProgress`` for ``task_seconds``, then takes effect and is ``Completed``. Not emulated:
distribution tenants, tags, and any call that is not about invalidations.
"""

from __future__ import annotations

from listener.emulator.cloudfront.emulator import (
    EXAMPLE,
    CloudFrontEmulator,
    CloudFrontSettings,
    Distribution,
    key_from_environment,
    parse_distribution,
)
from listener.emulator.cloudfront.signature import AccessKey

__all__ = [
    "EXAMPLE",
    "AccessKey",
    "CloudFrontEmulator",
    "CloudFrontSettings",
    "Distribution",
    "key_from_environment",
    "parse_distribution",
]
