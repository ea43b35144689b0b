"""
The HTTP port for people and probes.

=========== ==================================================================================
module      what it does
=========== ==================================================================================
server      opens and closes the port, and lays out its paths
guard       who may: host names, the token, sessions, requests forged by other pages
probes      ``/livez``, ``/readyz``, ``/healthz``, ``/metrics``, ``/api/status``
pages       ``/``, sign-in, and what people decide there
live        ``/events``: what is new on the page, as it happens
rendering   the page from its templates; whatever it shows is hostile
=========== ==================================================================================

::

               /livez, /readyz     everything else          retry, discard, refresh
    no token   anybody             anybody who reaches it   nobody
    a token    anybody             with the token           with the token; from a browser: a session,
                                                            this very page, and its signed mark

A browser must call the port ``localhost``, by an address, or by a name in ``admin.hosts``.
"""

from __future__ import annotations

from listener.daemon.admin.server import AddressNotAvailable, AdminServer

__all__ = ["AddressNotAvailable", "AdminServer"]
