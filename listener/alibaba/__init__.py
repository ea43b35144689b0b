"""
What every client of an Alibaba Cloud service needs: targets, sources and the emulator use it.

::

    signature  request signatures as pure functions
    replies    parsing of API replies, and the table of error codes; pure
    settings   settings that all Alibaba Cloud plugins share: endpoint and credentials
    keys       the access key, reloaded regularly
    sessions   one HTTP session, bounded replies, back-off (imports aiohttp, so import it only where calls are made)
"""

from __future__ import annotations

from listener.alibaba.keys import ChainKeys, EnvironmentKeys, KeyInUse, KeySource, key_source, require_key
from listener.alibaba.settings import KeySettings, Origin, Table

__all__ = [
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
