"""
What every listening port shares: sockets, limits on connections, and how requests are bounded.

=========== ==========================================================================================
module      what it does
=========== ==========================================================================================
listening   opens the sockets of an address, for one family or both, and accepts connections
activation  takes over a socket that systemd has opened
limiter     bounds connections: in all, per client address, per credential; evicts those that send nothing
descriptors divides the open files of the process among its ports, and keeps some for everything else
server      an aiohttp server behind these
bodies      reads request bodies within bounds of size, time and memory
answers     rejections, and answers to connections that never became a request
=========== ==========================================================================================
"""

from __future__ import annotations

from listener.serving.activation import inherited_socket
from listener.serving.answers import HTTPRejection
from listener.serving.bodies import Bodies, BodySpace
from listener.serving.limiter import ConnectionLimits
from listener.serving.listening import open_sockets, open_unix_socket, shown_address, try_address
from listener.serving.pending import client_of
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
