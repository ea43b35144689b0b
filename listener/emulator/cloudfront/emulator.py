"""The emulated CloudFront as a whole, and its options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiohttp import web

from listener.credentials import REHEARSAL
from listener.emulator.cloudfront.account import Account, Invalidation, Limits, month_of
from listener.emulator.cloudfront.api import CloudFrontServer
from listener.emulator.cloudfront.faults import FAULTS
from listener.emulator.cloudfront.signature import AccessKey
from listener.emulator.core import CoreSettings, EmulatorCore
from listener.emulator.edge import EdgeCache
from listener.emulator.server import Accepted, Surroundings
from listener.emulator.tasks import FOREVER, CacheKey, TaskRecord, normal_target
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

__all__ = [
    "EXAMPLE",
    "CloudFrontEmulator",
    "CloudFrontSettings",
    "Distribution",
    "key_from_environment",
    "parse_distribution",
]

KEY_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
HISTORY_SECONDS: Final = 30 * 86_400.0
"""How long the control endpoints show what was accepted."""


class Distribution(NamedTuple):
    """One distribution of the account."""

    id: str
    hosts: tuple[str, ...] = ()
    """Those that it serves, with their ports; empty: every host."""


EXAMPLE: Final = Distribution("EDFDVBD6EXAMPLE")


def parse_distribution(text: str) -> Distribution:
    """Read ``ID[=HOST[,HOST…]]``; without hosts it serves every host."""
    name, _, hosts = text.partition("=")
    if not re.fullmatch(r"E[A-Z0-9]{3,31}", name) or not re.fullmatch(r"[a-z0-9.:,-]*", hosts.lower()):
        raise ConfigurationError(
            f"The distribution {text!r} cannot be read.", hint="Its form is ID[=HOST[,HOST…]], as EDFDVBD6EXAMPLE."
        )
    return Distribution(name, tuple(host for host in hosts.lower().split(",") if host))


def key_from_environment(environment: Mapping[str, str] = os.environ) -> AccessKey:
    """
    Return the access key that the client is given too; that of a rehearsal where none is set.

    Raises:
        ConfigurationError: only one half of it is set.
    """
    found = [environment.get(name, "") for name in KEY_VARIABLES]
    if any(found) and not all(found):
        missing = KEY_VARIABLES[found.index("")]
        raise ConfigurationError(
            f"The emulator has half an access key: {missing} not set.",
            hint="Set both variables to any value, or neither, and give the client the same.",
        )
    return AccessKey(*(value or REHEARSAL for value in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFrontSettings(CoreSettings):
    """Everything that can be set."""

    key: AccessKey
    """The one key that may call."""
    distributions: tuple[Distribution, ...] = (EXAMPLE,)
    limits: Limits = "rate"
    """Paths and wildcards per second of the account, or in progress at each distribution."""


@dataclass(slots=True, kw_only=True)
class PathRecord(TaskRecord):
    """One path of an invalidation."""

    distribution: Distribution


class CloudFrontEmulator(EmulatorCore):
    """A local CloudFront; ``account`` is public for tests."""

    table = FAULTS
    settings: CloudFrontSettings

    def __init__(self, settings: CloudFrontSettings) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        super().__init__(settings, history_seconds=HISTORY_SECONDS)
        self.account = Account(settings.limits)
        self._distributions = {one.id: one for one in settings.distributions}

    def routes(self, around: Surroundings) -> Sequence[web.RouteDef]:
        """Return the routes of the API."""
        server = CloudFrontServer(
            around,
            key=self.settings.key,
            signing_clock=self.clock.unmoved,
            distributions=list(self._distributions),
            account=self.account,
            accept=self._accept,
        )
        return server.routes()

    def overview(self, now: float) -> Mapping[str, Any]:
        """Return what each month cost, and the distributions."""
        return {
            "month": month_of(now),
            "bill": self.account.bill(),
            "requests": self.account.requests,
            "limits": self.settings.limits,
            "distributions": {one.id: list(one.hosts) for one in self._distributions.values()},
        }

    def apply(self, record: TaskRecord, cache: EdgeCache) -> None:
        """Drop what a path names, on every host of its distribution."""
        assert isinstance(record, PathRecord)
        path = record.path
        if "%7E" in path.upper():
            return  # the service keeps ~ as it is, and refuses to be asked for it: the escape matches nothing
        hosts = record.distribution.hosts
        if path.endswith("*"):
            cache.refresh_everywhere(_target(path[:-1]), hosts, is_prefix=True)
        else:
            cache.refresh_everywhere(record.key.target, hosts, is_prefix=False)

    def _accept(self, made: Invalidation) -> Accepted:
        now, distribution = made.created_at, self._distributions[made.distribution]
        stuck = [
            fault
            for path in made.paths
            if self.faults.any("stuck") and (fault := self.faults.take_containing("stuck", path, now))
        ]
        ends_at = now + self.settings.task_seconds
        if stuck:
            ends_at = max(FOREVER if one.seconds is None else now + one.seconds for one in stuck)
        made.records = [
            PathRecord(
                task_id=made.id,
                path=path,
                key=CacheKey("", _target(path)),
                kind=RefreshKind.DIRECTORY if path.endswith("*") else RefreshKind.FILE,
                force=True,
                created_at=now,
                ends_at=ends_at,
                visible_at=now,
                shown_at=now,
                distribution=distribution,
            )
            for path in made.paths
        ]
        self.tasks.add(made.records)
        line = {
            "at": now,
            "distribution": made.distribution,
            "id": made.id,
            "caller_reference": made.reference,
            "kind": "paths",
            "force": True,
            "month": month_of(now),
            "paths": list(made.paths),
        }
        return Accepted(records=made.records, line=line)


def _target(path: str) -> str:
    """Return a path in normal form; one with a stray ``%`` matches nothing."""
    try:
        return normal_target(path)
    except ValueError:
        return path
