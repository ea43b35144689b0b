"""
The emulated Alibaba Cloud CDN, DCDN and ESA.

``actions``, ``account`` and ``parameters`` are pure, with time as an argument, as is the gate in ``api``; ``faults``
has the API's errors, ``emulator`` connects them with the core; ``esa`` has all that only ESA has.
"""

from __future__ import annotations

from listener.emulator.alibaba.emulator import (
    DcdnEmulator,
    Emulator,
    EmulatorSettings,
    credentials_from_environment,
    parse_quota,
)
from listener.emulator.alibaba.esa import EsaEmulator, EsaSettings, Site, parse_site

__all__ = [
    "DcdnEmulator",
    "Emulator",
    "EmulatorSettings",
    "EsaEmulator",
    "EsaSettings",
    "Site",
    "credentials_from_environment",
    "fault_help",
    "parse_fault",
    "parse_quota",
    "parse_site",
]

parse_fault = Emulator.table.parse
fault_help = Emulator.table.help
