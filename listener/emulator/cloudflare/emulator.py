"""The emulated Cloudflare as a whole, and its options."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from listener.credentials import REHEARSAL, read_credential
from listener.emulator.cloudflare.api import CloudflareServer, Zone, parse_zone
from listener.emulator.cloudflare.faults import FAULTS
from listener.emulator.core import CoreSettings, EmulatorCore
from listener.emulator.edge import EdgeCache
from listener.emulator.server import Accepted, Surroundings
from listener.emulator.tasks import CacheKey, TaskRecord
from listener.refresh import RefreshKind
from listener.targets.cloudflare.plans import PlanName

__all__ = ["CloudflareEmulator", "CloudflareSettings", "token_from_environment"]

TOKEN_VARIABLE: Final = "CLOUDFLARE_API_TOKEN"  # noqa: S105 - the name of a variable, not its value
HISTORY_SECONDS: Final = 3 * 86_400.0
"""How long the control endpoints show what was accepted."""


def token_from_environment(environment: Mapping[str, str] = os.environ) -> str:
    """Return the token that the client is given too; without one, that of a rehearsal."""
    return read_credential(TOKEN_VARIABLE, environment) or REHEARSAL


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudflareSettings(CoreSettings):
    """Everything that can be set."""

    token: str = field(repr=False)
    """The one token that may call."""
    plan: PlanName = "free"
    zones: tuple[Zone, ...] = ()
    """Empty for one zone that has the host of the edge."""
    task_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class PurgeRecord(TaskRecord):
    """One URL, prefix, host or tag of a purge."""

    by: str
    """A member of :data:`LISTS`, or ``purge_everything``."""


class CloudflareEmulator(EmulatorCore):
    """A local Cloudflare; ``zones`` and ``purged`` are public for tests."""

    table = FAULTS
    settings: CloudflareSettings

    def __init__(self, settings: CloudflareSettings) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        super().__init__(settings, history_seconds=HISTORY_SECONDS)
        self.zones = settings.zones or (parse_zone(settings.edge_host.lower()),)
        self.purged: Counter[str] = Counter()
        """Items accepted, by list; ``requests`` counts requests."""
        self._server: CloudflareServer | None = None

    def routes(self, around: Surroundings) -> Sequence[web.RouteDef]:
        """Return the routes of the API."""
        self._server = CloudflareServer(
            around, plan=self.settings.plan, token=self.settings.token, zones=self.zones, accept=self._accept
        )
        return self._server.routes()

    def overview(self, now: float) -> Mapping[str, Any]:
        """Return the plan, what was accepted, and what is left in its buckets."""
        left = {}
        if self._server is not None:
            left = {"requests": self._server.requests.left(now), "files": self._server.files.left(now)}
        zones = {zone.id: zone.name for zone in self.zones}
        return {"plan": self.settings.plan, "zones": zones, "accepted": dict(self.purged), "left": left}

    def apply(self, record: TaskRecord, cache: EdgeCache) -> None:
        """Let a purge take effect at the edge."""
        assert isinstance(record, PurgeRecord)
        key, hard = record.key, record.force
        if record.by == "files":
            cache.refresh(RefreshKind.FILE, key, force=True) if hard else cache.expire(key)
        elif key.target.startswith("#"):
            cache.refresh_tag(key.host, key.target[1:], force=hard)
        else:
            # A prefix ends where a path can end: x takes x, x?… and x/…, and not xy.
            below = key.target if key.target.endswith("/") else f"{key.target}/"
            cache.refresh(RefreshKind.DIRECTORY, CacheKey(key.host, below), force=hard)
            if below != key.target:
                cache.refresh(RefreshKind.IGNORE_PARAMS, key, force=hard)

    def _accept(self, zone: Zone, by: str, items: Sequence[tuple[str, CacheKey]], hard: bool) -> Accepted:
        now = self.clock.now()
        records = [
            PurgeRecord(
                task_id=zone.id,
                path=item,
                key=key,
                kind=RefreshKind.FILE if by == "files" else RefreshKind.DIRECTORY,
                force=hard,
                created_at=now,
                ends_at=now + self.settings.task_seconds,
                visible_at=now,
                shown_at=now,
                by=by,
            )
            for item, key in items
        ]
        self.tasks.add(records)
        self.purged.update({by: len(items), "requests": 1})
        line = {"at": now, "zone": zone.name, "kind": by, "force": hard, "paths": [item for item, _ in items]}
        return Accepted(records=records, line=line)
