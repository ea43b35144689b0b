"""
The webhook source: HTTP in, changes out; a 2xx means that they are durable.

================ ==============================================================================
part             modules
================ ==============================================================================
authentication   ``authentication``: shared secrets, signatures of SNS and EventBridge
receiving        ``receiver``: one request, until its changes are durable
connections      ``server``: one HTTP server for each address, limited by :mod:`listener.serving`
for the operator ``settings``, ``checks``, ``setup``
================ ==============================================================================
"""

from __future__ import annotations

from listener.sources.webhook.settings import WebhookSettings
from listener.sources.webhook.source import WebhookSource

__all__ = ["WebhookSettings", "WebhookSource"]
