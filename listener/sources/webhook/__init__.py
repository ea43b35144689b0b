"""
The webhook source: HTTP in, changes out; a 2xx means that they are durable.

::

    settings      what can be set                source        the source: iterator, check, setup
    servers       one server for each address    server        an HTTP server and its receivers
    receiver      one request to its answer      answers       statuses
    room          requests that wait for commit  replays       what is durable already
    guards        token, HMAC, opaque data       wiring        settings to guards
    sns, alibaba  what clouds sign               certificates  what they sign with, fetched within limits
    fetching      those limits                   confirmations subscriptions of SNS
    probes        what check tests               instructions  what to paste elsewhere
    activation    sockets that systemd holds
"""

from __future__ import annotations

from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.source import WebhookSource

__all__ = ["WebhookSettings", "WebhookSource"]
