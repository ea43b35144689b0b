"""
Alibaba Cloud CDN as a target; access key and session are those of ``listener.alibaba``.

::

    settings   what a configuration may say
    requests   actions as method, query and form, and how often they may be sent
    client     one signed call over one session; which failure means what; back-off
    target     the contract: submit, tasks, quota, checks
"""

from __future__ import annotations

from listener.targets.alibaba_cdn.settings import Settings
from listener.targets.alibaba_cdn.target import AlibabaCdn

__all__ = ["AlibabaCdn", "Settings"]
