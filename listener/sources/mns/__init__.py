"""
Events of Alibaba Cloud OSS in a queue of MNS (SMQ); ``listener.sources.queue`` has the reader.

::

    settings    options
    wire        request and reply formats, and error codes by what helps; pure
    transport   signed calls
    checks      what `check` tests
    setup       what `check --print-setup` prints; pure
    source      the Source contract
"""

from __future__ import annotations

from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.source import MnsSource

__all__ = ["MnsSettings", "MnsSource"]
