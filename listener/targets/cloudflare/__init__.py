"""
Cloudflare as a target.

::

    settings   what a configuration may say
    plans      the limits of each plan, and buckets that keep to them
    purges     which URLs, prefixes, hosts and tags purge what
    answers    which failure means what
    client     one call over one session, and the token
    zones      which zone a host belongs to
    target     the contract: admit, submit, checks
"""

from __future__ import annotations

from listener.targets.cloudflare.settings import Settings
from listener.targets.cloudflare.target import Cloudflare

__all__ = ["Cloudflare", "Settings"]
