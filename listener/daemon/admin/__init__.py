"""
The HTTP port for people and probes.

============== ==================================================================================
module         what it does
============== ==================================================================================
server         opens port and socket, lays out the paths, answers probes and ``/metrics``
authenticator  who may: host names, the token, wrong tokens, sessions, requests forged by other pages
pages          ``/``, sign-in, what people decide there, and ``/events``: what is new on the page
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

from listener.daemon.admin.server import AddressNotAvailable, AdminServer

__all__ = ["AddressNotAvailable", "AdminServer"]
