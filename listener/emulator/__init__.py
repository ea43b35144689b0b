"""
Local CDNs, each with its API and a caching edge in front of an origin, for rehearsals and tests.

::

    client ──call──▶ server ─▶ the CDN's own module ─▶ tasks ──at their end──▶ cache
    browser ──GET, HEAD──▶ edge ──────────────────────────── miss? ──▶ cache ─▶ origin

A package for each CDN (``alibaba``, ``cloudflare``, ``cloudfront``) says who may call, what it accepts and what it
counts. All else is shared: ``tasks``, ``faults`` and the cache in ``edge`` are pure, with time as an argument;
``server``, ``origin``, ``journal``, ``control`` and ``core`` do I/O.
"""

from __future__ import annotations

from listener.emulator.alibaba import (
    DcdnEmulator,
    Emulator,
    EmulatorSettings,
    EsaEmulator,
    EsaSettings,
    credentials_from_environment,
    fault_help,
    parse_fault,
    parse_quota,
    parse_site,
)
from listener.emulator.cloudflare import CloudflareEmulator, CloudflareSettings
from listener.emulator.cloudfront import CloudFrontEmulator, CloudFrontSettings
from listener.emulator.core import CoreSettings, EmulatorCore, parse_address, serve
from listener.emulator.faults import Fault

__all__ = [
    "CloudFrontEmulator",
    "CloudFrontSettings",
    "CloudflareEmulator",
    "CloudflareSettings",
    "CoreSettings",
    "DcdnEmulator",
    "Emulator",
    "EmulatorCore",
    "EmulatorSettings",
    "EsaEmulator",
    "EsaSettings",
    "Fault",
    "credentials_from_environment",
    "fault_help",
    "parse_address",
    "parse_fault",
    "parse_quota",
    "parse_site",
    "serve",
]
