"""
Alibaba Cloud CDN and DCDN as targets; what every client of the vendor needs is in ``listener.alibaba``.

::

    settings   what a configuration may say
    services   the APIs as data: names of actions, versions, limits
    requests   actions as method, query and form
    target     the contract: submit, tasks, quota, checks
"""

from __future__ import annotations

from listener.targets.alibaba_cdn.settings import DcdnSettings, Settings
from listener.targets.alibaba_cdn.target import AlibabaCdn, AlibabaDcdn

__all__ = ["AlibabaCdn", "AlibabaDcdn", "DcdnSettings", "Settings"]
