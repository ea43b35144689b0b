"""
Alibaba Cloud ESA (Edge Security Acceleration) as a target: one site of an account.

::

    settings   what a configuration may say
    requests   actions as method, query and form; how a task is named so that it can be found again
    target     the contract: submit, tasks, allowances, checks
"""

from __future__ import annotations

from listener.targets.alibaba_esa.settings import Settings
from listener.targets.alibaba_esa.target import AlibabaEsa

__all__ = ["AlibabaEsa", "Settings"]
