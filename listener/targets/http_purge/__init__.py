"""
Caches that one runs oneself, as a target: Varnish, nginx, Squid, Apache Traffic Server and others that drop on request.

::

    settings   what a configuration may say
    presets    which request purges what, and what an answer means
    servers    one cache: its connections, and whether it is away
    target     the contract: every purge to every cache, checks
"""

from __future__ import annotations

from listener.targets.http_purge.settings import Settings
from listener.targets.http_purge.target import HttpPurge

__all__ = ["HttpPurge", "Settings"]
