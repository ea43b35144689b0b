"""
What every client of an Alibaba Cloud service needs, whatever it speaks: a target's API calls and a source's queue.

::

    settings   the settings that such plugins share: endpoint, and where the access key comes from
    keys       the access key, read anew before it runs out
    sessions   one HTTP session, bounded answers, back-off
"""

from __future__ import annotations

from listener.alibaba.keys import ChainKeys, EnvironmentKeys, KeyInUse, KeySource, key_source
from listener.alibaba.sessions import back_off_seconds, open_session, read_bounded, words
from listener.alibaba.settings import KeySettings, Origin, Table

__all__ = [
    "ChainKeys",
    "EnvironmentKeys",
    "KeyInUse",
    "KeySettings",
    "KeySource",
    "Origin",
    "Table",
    "back_off_seconds",
    "key_source",
    "open_session",
    "read_bounded",
    "words",
]
