"""
The emulated Alibaba Cloud CDN.

``actions``, ``account`` and ``parameters`` are pure, with time as an argument, as is the gate in ``api``; ``faults``
has the API's errors, ``emulator`` connects them with the core.
"""

from __future__ import annotations

from listener.emulator.alibaba.emulator import Emulator, EmulatorSettings, credentials_from_environment, parse_quota
from listener.emulator.alibaba.faults import fault_help, parse_fault

__all__ = [
    "Emulator",
    "EmulatorSettings",
    "credentials_from_environment",
    "fault_help",
    "parse_fault",
    "parse_quota",
]
