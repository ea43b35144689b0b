"""
Listening sockets: opened here, or held for us by a service manager; and the loop that accepts connections.

``[::]`` and ``*`` take IPv4 and IPv6 by one socket, and IPv4 alone on a machine without IPv6. When the process may
open no more files, accepting pauses: asyncio's own loop would log a thousand errors for each such moment.

Sockets of a service manager (systemd's socket activation, ``sd_listen_fds(3)``) outlive this process: who connects
during a restart waits in the kernel's queue instead of being refused. ``$LISTEN_PID`` names the process that is meant,
``$LISTEN_FDS`` how many sockets there are from descriptor 3 on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

__all__ = ["Acceptor", "inherited_socket", "open_sockets", "open_unix_socket", "shown_address", "try_address"]

log = structlog.get_logger()

BACKLOG: Final = 1024
ACCEPTS_PER_TURN: Final = 32
"""Connections accepted before other work gets its turn."""
PAUSE_SECONDS: Final = 0.1
"""How long accepting rests when no more files can be opened."""
UNSENT_MILLISECONDS: Final = 30_000
"""How long a client may leave an answer unread until the kernel closes the connection (tcp(7), TCP_USER_TIMEOUT)."""
_BOTH: Final = frozenset({"::", "*", ""})
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

FIRST_DESCRIPTOR: Final = 3
ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for every address of the host. Raise OSError where one cannot be had."""
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            sockets.append(_bound(family, address))
            sockets[-1].listen(BACKLOG)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def open_unix_socket(path: str, mode: int) -> socket.socket:
    """Return a listening Unix socket in place of one that an earlier process left. Raise OSError."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - one call
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(made.fileno(), mode)  # as it is bound, nobody else can connect
        made.bind(path)
        os.chmod(path, mode)  # noqa: PTH101 - one call
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def try_address(host: str, port: int) -> str | None:
    """Return why an address cannot be listened on; ``None`` where it can be."""
    try:
        for family, address in _addresses(host, port):
            _bound(family, address).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def shown_address(listening: socket.socket) -> str:
    """Return the address of a socket as settings have it: ``127.0.0.1:9181``, ``[::1]:9181``, a path."""
    address = listening.getsockname()
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    if host in _BOTH:
        return [(socket.AF_INET6, ("::", port))] if _has_ipv6() else [(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, tuple(address)) for family, _, _, _, address in found))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError as error:
        return error.errno not in _NO_IPV6
    return True


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class Acceptor:
    """Accepts the connections of some listening sockets."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        make_room: Callable[[], bool],
    ) -> None:
        """Take the sockets, which are listening; ``make_room`` closes a connection when no more can be opened."""
        self.sockets = list(sockets)
        self._make_protocol = make_protocol
        self._make_room = make_room
        self._connecting: set[asyncio.Task[None]] = set()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Accept from now on."""
        for each in self.sockets:
            each.setblocking(False)
            with suppress(OSError):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_MILLISECONDS)
            asyncio.get_running_loop().add_reader(each.fileno(), self._accept, each)

    def stop(self) -> None:
        """Accept nothing more; the sockets stay open, and what waits in their queues is left to whoever shares them."""
        for each in self.sockets:
            asyncio.get_running_loop().remove_reader(each.fileno())
            if (timer := self._paused.pop(each, None)) is not None:
                timer.cancel()

    async def close(self) -> None:
        """Close the sockets once every accepted connection has its protocol; safe to call twice."""
        self.stop()
        if self._connecting:
            await asyncio.wait(self._connecting)
        while self.sockets:
            self.sockets.pop().close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listening, error)
                return
            accepted.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._connect(accepted))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, accepted)
        except OSError:
            accepted.close()

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Rest a moment: the connection stays in the kernel's queue, and the loop would be woken for it at once."""
        loop = asyncio.get_running_loop()
        if error.errno in _EXHAUSTED:
            self._make_room()
        why = os.strerror(error.errno) if error.errno else str(error)
        hint = "raise LimitNOFILE in the unit (ulimit -n)" if error.errno == errno.EMFILE else ""
        log.error("serving.accept_failed", address=shown_address(listening), error=why, hint=hint)
        loop.remove_reader(listening.fileno())
        self._paused[listening] = loop.call_later(PAUSE_SECONDS, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._paused[listening]
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)


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
        return range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(environ.get("LISTEN_FDS", "")))
    return range(0)


def _serves(found: socket.socket, host: str, port: int) -> bool:
    if found.type != socket.SOCK_STREAM or found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    bound_host, bound_port = found.getsockname()[:2]
    return bound_port == port and (bound_host in ANY_HOST or bound_host in _addresses_of(host, port))


def _addresses_of(host: str, port: int) -> set[str]:
    with suppress(OSError):
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return {host}
