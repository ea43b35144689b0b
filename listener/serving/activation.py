"""
Listening sockets that a service manager holds for us (systemd's socket activation, ``sd_listen_fds(3)``).

They outlive this process: who connects during a restart waits in the kernel's queue instead of being refused.
``$LISTEN_PID`` names the process that is meant, ``$LISTEN_FDS`` how many sockets there are from descriptor 3 on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

__all__ = ["inherited_socket"]

FIRST: Final = 3
ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def inherited_socket(host: str, port: int, environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """
    Return a listening TCP socket that was handed to this process for this address, or ``None``.

    A copy of it: closing that ends nothing but our share. One that listens on every address serves any host of
    its port.
    """
    for descriptor in _descriptors(environ):
        found = _copy(descriptor)
        if found is not None and _serves(found, host, port):
            found.setblocking(False)
            os.set_inheritable(descriptor, False)  # what this process starts has no business with it
            return found
        if found is not None:
            found.close()
    return None


def _copy(descriptor: int) -> socket.socket | None:
    with suppress(OSError):
        copy = os.dup(descriptor)
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
    return None


def _descriptors(environ: Mapping[str, str]) -> range:
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return range(0)
    with suppress(ValueError):
        return range(FIRST, FIRST + int(environ.get("LISTEN_FDS", "")))
    return range(0)


def _serves(found: socket.socket, host: str, port: int) -> bool:
    if found.type != socket.SOCK_STREAM or found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    bound_host, bound_port = found.getsockname()[:2]
    return bound_port == port and (bound_host in ANY_HOST or bound_host in _addresses(host, port))


def _addresses(host: str, port: int) -> set[str]:
    with suppress(OSError):
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return {host}
