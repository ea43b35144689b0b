"""
The emulated Cloudflare: zones, purges by URL, prefix, host and tag, and the limits of a plan.

What is accepted takes effect after ``task_seconds``, and no call says when. Not emulated: environments, cache keys with
headers, URL rewriting, and what the API counts per user.
"""

from __future__ import annotations

from listener.emulator.cloudflare.api import Zone, parse_zone
from listener.emulator.cloudflare.emulator import CloudflareEmulator, CloudflareSettings, token_from_environment

__all__ = ["CloudflareEmulator", "CloudflareSettings", "Zone", "parse_zone", "token_from_environment"]
