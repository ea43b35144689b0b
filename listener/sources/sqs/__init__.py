"""
The sqs source: what S3 tells a queue, made durable before it is deleted there.

::

    settings   what can be set              address    what a queue's URL tells
    transport  the calls, as a contract     boto       ... by boto3, in threads
    trouble    refusals by remedy           native     ... by aiohttp
    bodies     bodies to changes            held       received, not durable yet
    deleter    batches of deletions         telling    health and figures
    session    one run of all this          source     what the pipeline sees
    doctor     what check asks              policies   ... and how answers are judged
    guide      what to paste at AWS
"""

from __future__ import annotations

from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.source import SqsSource

__all__ = ["SqsSettings", "SqsSource"]
