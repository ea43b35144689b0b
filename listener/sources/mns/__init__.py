"""
Events of Alibaba Cloud OSS by a queue of MNS (SMQ); access key and session are those of ``listener.alibaba``.

::

    settings   what a configuration may say
    wire       resources, bodies, answers: hostile XML refused; pure
    trouble    what is refused, by what can be done about it; pure
    client     one signed call over one session
    held       what was received and not yet deleted; pure
    reading    from messages to a delivery; pure
    deleting   batches of deletions, tried again within a bound
    figures    what is counted and measured
    session    one reading of the queue, from start to end
    source     the contract
    checks     what `cdn-listener check` probes
    setup      what `cdn-listener check --print-setup` prints; pure
"""

from __future__ import annotations

from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.source import MnsSource

__all__ = ["MnsSettings", "MnsSource"]
