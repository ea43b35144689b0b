"""
What every listening port shares: sockets, limits on connections, and how requests are bounded.

=========== ==========================================================================================
module      what it does
=========== ==========================================================================================
listening   opens the sockets of an address, or takes over those of systemd, and accepts connections
limiter     bounds connections: in all, per client address, per credential; evicts those that send nothing
descriptors divides the open files of the process among its ports, and keeps some for everything else
server      an aiohttp server behind these
requests    request bodies within bounds of size, time and memory; rejections
=========== ==========================================================================================
"""

from __future__ import annotations

from listener.serving.limiter import ConnectionLimits
from listener.serving.listening import inherited_socket, open_sockets, open_unix_socket, shown_address, try_address
from listener.serving.requests import Bodies, BodySpace, HTTPRejection, client_of
from listener.serving.server import HttpServer

__all__ = [
    "Bodies",
    "BodySpace",
    "ConnectionLimits",
    "HTTPRejection",
    "HttpServer",
    "client_of",
    "inherited_socket",
    "open_sockets",
    "open_unix_socket",
    "shown_address",
    "try_address",
]
