"""
What a probe may reach: the hosts of sites, the addresses that are stated, and ``origin_url``; nothing else.

A host name may lead anywhere, and whoever answers for it decides where. So a name of a site that leads to a private
address (of this machine, its network, or a cloud's metadata) is refused, unless this very address is stated. The names
in ``origin_url`` and of proxies are the operator's own.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

__all__ = ["GuardedResolver", "PrivateAddress", "is_public"]

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddress(OSError):
    """A host name leads to private addresses only."""


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet."""
    found: _IPAddress = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


class GuardedResolver(AbstractResolver):
    """Resolves names as the system does, and leaves out private addresses that nobody stated."""

    def __init__(self, *, stated: Iterable[str], trusted_names: Collection[str]) -> None:
        """Take the addresses that are stated, and the names that may lead anywhere."""
        self._inner = ThreadedResolver()
        self._stated = {ipaddress.ip_address(one) for one in stated}
        self._trusted_names = trusted_names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return where the name leads. Raise :class:`PrivateAddress` where that is nowhere it may."""
        found = await self._inner.resolve(host, port, family)
        if host in self._trusted_names:
            return found
        kept = [one for one in found if self._is_allowed(one["host"])]
        if not kept:
            where = ", ".join(sorted({one["host"] for one in found}))
            raise PrivateAddress(
                f"{host} leads to {where}, a private address; state it in verifier.edge.edges or by --edge"
            )
        return kept

    def _is_allowed(self, address: str) -> bool:
        return is_public(address) or ipaddress.ip_address(address.partition("%")[0]) in self._stated

    async def close(self) -> None:
        """Release nothing."""
        await self._inner.close()
