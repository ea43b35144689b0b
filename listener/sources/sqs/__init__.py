"""
Events of Amazon S3 in an SQS queue; ``listener.sources.queue`` has the reader.

::

    settings   options          address    what a queue URL contains
    client     calls by boto3   errors     error codes by remedy
    checks     what `check` tests          policies   … and how it judges policies and rules
    setup      what to paste at AWS        source     the Source contract
"""

from __future__ import annotations

from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.source import SqsSource

__all__ = ["SqsSettings", "SqsSource"]
