"""
What every client of an Alibaba Cloud service needs, whatever it speaks: a target's API calls and a source's queue.

::

    settings   the settings that such plugins share: endpoint, and where the access key comes from
    keys       the access key, read anew before it runs out
    sessions   one HTTP session, bounded answers, back-off; imported by whoever makes calls, for it brings aiohttp
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
