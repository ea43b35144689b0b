"""
A local Alibaba CDN: its API, and a caching edge in front of an origin, for rehearsals and tests.

::

    client ──signed call──▶ api ─▶ gate ─▶ actions ─▶ account ─▶ tasks ──at their end──▶ cache
    browser ──GET, HEAD──▶ edge ──────────────────────────────────────── miss? ──▶ cache ─▶ origin

``gate``, ``actions``, ``account``, ``tasks``, ``paths``, ``faults`` and ``cache`` are pure, with time as an argument;
``api``, ``edge``, ``origin``, ``control`` and ``service`` do I/O.
"""

from __future__ import annotations

from listener.emulator.faults import Fault, fault_help, parse_fault
from listener.emulator.service import Emulator, serve
from listener.emulator.settings import EmulatorSettings, credentials_from_environment, parse_address, parse_quota

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
