"""
The HTTP port for people and probes.

============== ==================================================================================
module         what it does
============== ==================================================================================
server         lays out the paths, and what every answer has in common
ports          opens and closes port and socket, each with a limit of connections
authenticator  who may: host names, the token, sessions, requests forged by other pages
attempts       wrong tokens, counted by client address
probes         ``/livez``, ``/readyz``, ``/healthz``, ``/metrics``, ``/api/status``
pages          ``/``, sign-in, and what people decide there
live           ``/events``: what is new on the page, as it happens
rendering      the page from its templates; whatever it shows is hostile
============== ==================================================================================

::

               /livez, /readyz     everything else          retry, discard, refresh
    no token   anybody             anybody who reaches it   nobody
    a token    anybody             with the token           with the token; from a browser: a session,
                                                            this very page, and its signed mark

A browser must call the port ``localhost``, by an address, or by a name in ``admin.hosts``.
"""

from __future__ import annotations

from listener.daemon.admin.ports import AddressNotAvailable
from listener.daemon.admin.server import AdminServer

__all__ = ["AddressNotAvailable", "AdminServer"]
