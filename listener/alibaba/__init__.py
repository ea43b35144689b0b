"""
What every client of an Alibaba Cloud service needs: targets, sources and the emulator use it.

::

    signature  request signatures as pure functions
    replies    parsing of API replies, and the table of error codes; pure
    access     the access key, reloaded regularly
    session    the HTTP session that calls of any target go through; what a failure of the transport means
    calls      a call's parameters by place, and the settings of how it is made; pure
    rates      windows that keep the rate limits
    client     one signed call over one session; which failure means what; back-off
    targets    what targets of this vendor have in common: the search of a task list, the checks
"""

from __future__ import annotations

from listener.alibaba.access import (
    KEY_QUESTIONS,
    ChainKeys,
    EnvironmentKeys,
    KeyInUse,
    KeySettings,
    KeySource,
    Origin,
    Table,
    key_source,
    require_key,
)

__all__ = [
    "KEY_QUESTIONS",
    "ChainKeys",
    "EnvironmentKeys",
    "KeyInUse",
    "KeySettings",
    "KeySource",
    "Origin",
    "Table",
    "key_source",
    "require_key",
]
