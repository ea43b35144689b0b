"""
A local Alibaba CDN: its API, and a caching edge in front of an origin, for rehearsals and tests.

::

    client ──signed call──▶ api ─▶ gate ─▶ actions ─▶ account ─▶ tasks ──at their end──▶ cache
    browser ──GET, HEAD──▶ edge ──────────────────────────────────────── miss? ──▶ cache ─▶ origin

``actions``, ``account``, ``tasks`` (with their paths) and ``faults`` (with the API's errors) are pure, with time as an
argument, as are the gate in ``api`` and the cache in ``edge``; ``origin``, ``control`` and ``service`` do I/O.
"""

from __future__ import annotations

from listener.emulator.faults import Fault, fault_help, parse_fault
from listener.emulator.service import (
    Emulator,
    EmulatorSettings,
    credentials_from_environment,
    parse_address,
    parse_quota,
    serve,
)

__all__ = [
    "Emulator",
    "EmulatorSettings",
    "Fault",
    "credentials_from_environment",
    "fault_help",
    "parse_address",
    "parse_fault",
    "parse_quota",
    "serve",
]
