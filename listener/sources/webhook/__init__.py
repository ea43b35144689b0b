"""
The webhook source: HTTP in, changes out; a 2xx means that they are durable.

::

    settings      what can be set               source       the source: iterator, check, setup
    servers       one server for each address   server       door, aiohttp and receivers
    door          who has not asked for anything
    receiver      one request to its answer     bodies       reading what is sent, within bounds
    room          requests that wait for commit answers      statuses and refusals
    guards        token, HMAC, opaque data      wiring       settings to guards
    sns, alibaba  what clouds sign              certificates what they sign with, fetched with care
    replays       what is durable already       activation   sockets that systemd holds
    probes        what check asks               instructions what to paste elsewhere
"""

from __future__ import annotations

from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.source import WebhookSource

__all__ = ["WebhookSettings", "WebhookSource"]
