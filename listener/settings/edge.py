"""Where probes of the edge go, and how many there are."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

__all__ = ["BY_NAME", "Edge", "edge_of"]

_ADDRESS: Final = re.compile(r"(?:(?P<plain>[0-9.]{7,15})|\[(?P<six>[0-9a-fA-F:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?")


class Edge(NamedTuple):
    """Where a URL is requested."""

    host: str = ""
    """An IP address; empty: where the name of the URL's host leads."""
    port: int | None = None
    """None: that of the URL."""

    def __str__(self) -> str:
        """Return it as it is written; ``name`` where the name decides."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port is None else f"{host}:{self.port}") or "name"

    def authority(self, of_url: str) -> str:
        """Return host and port to connect to, for a URL with this authority."""
        if not self.host:
            return of_url
        port = self.port if self.port is not None else _port_of(of_url)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if port is None else f"{host}:{port}"


BY_NAME: Final = Edge()


def edge_of(text: str) -> Edge:
    """Return the edge at ``ADDRESS`` or ``ADDRESS:PORT`` (``[ADDRESS]:PORT`` for IPv6). Raise :class:`ValueError`."""
    found = _ADDRESS.fullmatch(text.strip())
    port = int(found["port"]) if found and found["port"] else None
    try:
        host = str(ipaddress.ip_address(text.strip() if found is None else found["plain"] or found["six"]))
    except ValueError:
        host = ""
    if not host or (port is not None and not 0 < port < 65536):
        raise ValueError(f"{text!r}: write an IP address, with :PORT where it is not that of the URL")
    return Edge(host, port)


def _port_of(authority: str) -> int | None:
    port = authority.rpartition(":")[2]
    return int(port) if port.isdecimal() and not authority.endswith("]") and ":" in authority else None
