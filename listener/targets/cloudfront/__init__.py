"""
Amazon CloudFront as a target.

::

    settings   what a configuration may say
    prices     the free paths of a month, the price of others, and how many at once
    paths      which path, or beginning of paths, a URL is asked for by
    wire       the XML of requests and answers
    answers    which failure means what
    client     one signed call over one session, and the access key
    target     the contract: admit, submit, tasks, checks
"""

from __future__ import annotations

from listener.targets.cloudfront.settings import Settings
from listener.targets.cloudfront.target import CloudFront

__all__ = ["CloudFront", "Settings"]
