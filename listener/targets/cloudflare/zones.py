"""Which zone a host belongs to: by the setting, or by the API."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from listener.errors import BatchRejected, Misconfigured, Unavailable
from listener.targets.cloudflare.answers import Request, Sent

if TYPE_CHECKING:
    from listener.targets.cloudflare.client import Client

__all__ = ["Zone", "Zones", "listed", "zone_id_of"]

PAGE_SIZE: Final = "50"
ACTIVE: Final = "active"


class Zone(NamedTuple):
    """A zone as the API shows it."""

    id: str
    name: str
    status: str


class Zones:
    """The zones of hosts; each is looked up once."""

    def __init__(self, configured: Mapping[str, str], *, setting: str) -> None:
        """Keep the ids that the setting has, by domain; ``setting`` is its name, for messages."""
        self._configured = configured
        self._setting = setting
        self._found: dict[str, str] = {}
        self._turns = asyncio.Lock()

    def known(self, host: str) -> str | None:
        """Return the id of a host's zone, unless it must be looked up; no input or output."""
        bare = _without_port(host)
        return self._found.get(bare) or zone_id_of(bare, self._configured)

    async def find(self, client: Client, host: str, urls: Sequence[str]) -> str:
        """
        Return the id of a host's zone.

        Raises :class:`~listener.errors.BatchRejected` where the host is in none (``urls`` are what it is about),
        :class:`~listener.errors.Misconfigured` where it is in several or the token sees no zone at all.
        """
        if known := self.known(host):
            return known
        bare = _without_port(host)
        if self._configured:
            hint = f"add its zone to {self._setting}, or correct base_urls of its site"
            raise BatchRejected(f"{host} is in no zone of {self._setting}", urls=urls, hint=hint)
        async with self._turns:
            if bare not in self._found:
                self._found[bare] = await self._look_up(client, bare, urls)
        return self._found[bare]

    def forget(self) -> None:
        """Look all up again: one may have moved."""
        self._found.clear()

    async def _look_up(self, client: Client, host: str, urls: Sequence[str]) -> str:
        for name in _domains_of(host):
            found = await listed(client, name)
            usable = [zone for zone in found if zone.status == ACTIVE] or found
            if len(usable) > 1:
                ids = ", ".join(zone.id for zone in usable)
                hint = f'set the one that serves it: {self._setting} = {{ "{name}" = "…" }}'
                raise Misconfigured(f"{host} is in {len(usable)} zones named {name}: {ids}", hint=hint)
            if usable:
                return usable[0].id
        if not await listed(client):
            hint = f"give the token the permission Zone Read for them, or set {self._setting}"
            raise Misconfigured(f"the token sees no zone, so {host} cannot be purged", hint=hint)
        hint = "let the token see its zone (Zone Read), or correct base_urls of its site"
        raise BatchRejected(f"{host} is in no zone that the token sees", urls=urls, hint=hint)


async def listed(client: Client, name: str = "") -> list[Zone]:
    """Return the first zones that the token sees, or those of this name."""
    query = {"per_page": PAGE_SIZE} | ({"name": name} if name else {})
    words = f"the list of zones{f' named {name}' if name else ''}"
    fields = await client.call(Request("GET", "/zones", Sent(words), query))
    rows = fields.get("result")
    if not isinstance(rows, list):
        raise Unavailable(f"Cloudflare answered {words} with HTTP 200, but without zones")
    return [zone for row in rows if isinstance(row, dict) and (zone := _zone(row)) is not None]


def _zone(row: Mapping[str, Any]) -> Zone | None:
    values = [row.get(name) for name in ("id", "name", "status")]
    return Zone(*map(str, values)) if all(isinstance(value, str) for value in values) else None


def zone_id_of(host: str, ids: Mapping[str, str]) -> str | None:
    """Return the id of the domain with the longest name that a host is in."""
    return next((ids[name] for name in _domains_of(host, shortest=1) if name in ids), None)


def _domains_of(host: str, *, shortest: int = 2) -> Iterator[str]:
    """Yield the host and the domains above it, down to so many labels."""
    yield host
    if _is_address(host):
        return
    labels = host.split(".")
    for start in range(1, len(labels) - shortest + 1):
        yield ".".join(labels[start:])


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
