"""
Proof at the edge: whether visitors get what the storage holds.

============ =====================================================================================
module       what it does
============ =====================================================================================
``answers``  what the headers of an answer say; pure
``caches``   how caches describe what they did: ``Cache-Status`` (RFC 9211), vendors' headers; pure
``verdict``  fresh, stale or unknown, with the reason; pure
``reach``    which hosts and addresses a probe may reach
``prober``   requests a URL as a visitor does, and judges the answer
============ =====================================================================================

Imported only where something is probed: a daemon with ``verifier.edge.mode = "off"`` loads none of it.
"""

from __future__ import annotations
