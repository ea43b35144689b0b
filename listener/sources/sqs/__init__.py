"""
Events of Amazon S3 in an SQS queue; ``listener.sources.queue`` has the reader.

::

    settings    options, and what a queue URL contains
    boto        calls by boto3, and error codes by what helps
    checks      what `check` tests, and how it judges policies and notification rules
    setup       what to paste at AWS
    source      the Source contract
"""

from __future__ import annotations

from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.source import SqsSource

__all__ = ["SqsSettings", "SqsSource"]
