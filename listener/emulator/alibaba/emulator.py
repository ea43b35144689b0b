"""The emulated Alibaba Cloud CDN and DCDN as a whole, and their options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from aiohttp import web

from listener.alibaba.signature import Credentials
from listener.allowances import ALIBABA_DAY
from listener.credentials import REHEARSAL, read_credential
from listener.emulator.alibaba.account import CallRates, EmulatedAccount
from listener.emulator.alibaba.actions import CDN_VERSIONS, DCDN_VERSIONS, V2014, Api, Does, Version
from listener.emulator.alibaba.api import AlibabaServer, Gate
from listener.emulator.alibaba.faults import FAULT_KINDS, REJECTIONS
from listener.emulator.core import CoreSettings, EmulatorCore
from listener.emulator.faults import FaultTable
from listener.emulator.server import Surroundings
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

__all__ = ["DcdnEmulator", "Emulator", "EmulatorSettings", "credentials_from_environment", "parse_quota"]

KEY_ID_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_ID"
KEY_SECRET_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"  # noqa: S105 - the name of a variable, not its value

CALLS_PER_SECOND: Final[Mapping[Does, int]] = {
    Does.REFRESH: 50,
    Does.PREFETCH: 50,
    Does.LIST: 10,
    Does.BY_ID: 30,
    Does.QUOTA: 20,
}
"""The vendor's figures for each action and account of CDN; its newest pages say 5 for DescribeRefreshTasks."""
DCDN_CALLS_PER_SECOND: Final[Mapping[Does, int]] = {**CALLS_PER_SECOND, Does.REFRESH: 30, Does.PREFETCH: 15}
"""Those of DCDN; for the task list it names none."""
QUOTA: Final[Mapping[RefreshKind, int]] = {
    RefreshKind.FILE: 10_000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.PREFETCH: 1_000,
    RefreshKind.IGNORE_PARAMS: 100,
}
"""Units a day of an account as it is today; older ones have 2,000 files."""
QUOTA_ORDER: Final = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH, RefreshKind.IGNORE_PARAMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings(CoreSettings):
    """Everything that can be set."""

    credentials: Credentials
    """The one access key that may call; with a security token set, calls must carry it."""
    quota: Mapping[RefreshKind, int] = field(default_factory=lambda: dict(QUOTA))
    """Units a day; kinds that are left out keep the vendor's figure."""
    domains: tuple[str, ...] = ()
    """The domains of the account, with or without a port; empty for any."""
    calls_per_second: Mapping[str, int] = field(default_factory=dict)
    """By action; actions that are left out keep the vendor's figure."""
    urls_per_domain_minute: int = 10_000
    """The vendor's newest figure; 1,000 in older pages."""
    directories_per_domain_minute: int = 100


def credentials_from_environment(environment: Mapping[str, str] = os.environ) -> Credentials:
    """
    Return the access key that the client is given too; that of a rehearsal where none is set.

    Raises:
        ConfigurationError: only one half of it is set.
    """
    names = (KEY_ID_VARIABLE, KEY_SECRET_VARIABLE)
    found = [read_credential(name, environment) for name in names]
    if any(found) and not all(found):
        missing = names[found.index("")]
        raise ConfigurationError(
            f"The emulator has half an access key: {missing} not set.",
            hint="Set both variables to any value, or neither, and give the client the same.",
        )
    return Credentials(*(value or REHEARSAL for value in found))


def parse_quota(text: str, *, others: Mapping[RefreshKind, int] = QUOTA) -> dict[RefreshKind, int]:
    """
    Read ``FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]``; ``others`` are the figures of what is left out.

    Raises:
        ConfigurationError: the text has another form.
    """
    numbers = [part.strip() for part in text.split(",")]
    if not 2 <= len(numbers) <= len(QUOTA_ORDER) or not all(part.isascii() and part.isdecimal() for part in numbers):
        raise ConfigurationError(
            f"The quota {text!r} cannot be read.", hint="Its form is FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]."
        )
    return {**others, **dict(zip(QUOTA_ORDER, map(int, numbers), strict=False))}


def fault_table(versions: Mapping[str, Version]) -> FaultTable:
    """Return what can go wrong in these versions of an API."""
    actions = dict.fromkeys(action for version in versions.values() for action in version.actions)
    return FaultTable(FAULT_KINDS, tuple(actions), REJECTIONS)


def api_routes(
    around: Surroundings, api: Api, credentials: Credentials, rates: Mapping[str, int], *, help_page: str
) -> Sequence[web.RouteDef]:
    """Return the one route of an API; ``rates`` are calls a second, by action."""
    server = AlibabaServer(around, api=api, gate=Gate(credentials, CallRates(rates)), help_page=help_page)
    return [web.route("*", "/", server.handle)]


def _rates(versions: Mapping[str, Version], rates: Mapping[Does, int]) -> dict[str, int]:
    return {name: rates[does] for version in versions.values() for name, does in version.actions.items()}


class Emulator(EmulatorCore):
    """A local Alibaba CDN; ``account`` is public for tests."""

    versions: ClassVar[Mapping[str, Version]] = CDN_VERSIONS
    rates: ClassVar[Mapping[Does, int]] = CALLS_PER_SECOND
    help_page: ClassVar[str] = "https://next.api.aliyun.com/document/Cdn/2018-05-10/errorCode"
    table = fault_table(CDN_VERSIONS)
    settings: EmulatorSettings

    def __init__(self, settings: EmulatorSettings) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        super().__init__(settings, history_seconds=V2014.history_seconds)
        self.account = EmulatedAccount(
            quota={**QUOTA, **settings.quota},
            faults=self.faults,
            per_minute={
                RefreshKind.FILE: settings.urls_per_domain_minute,
                RefreshKind.IGNORE_PARAMS: settings.urls_per_domain_minute,
                RefreshKind.DIRECTORY: settings.directories_per_domain_minute,
            },
            tasks=self.tasks,
            task_seconds=settings.task_seconds,
            domains=settings.domains,
        )

    def routes(self, around: Surroundings) -> Sequence[web.RouteDef]:
        """Return the one route of the API."""
        api = Api(self.account, self.faults, self.versions)
        rates = {**_rates(self.versions, self.rates), **self.settings.calls_per_second}
        return api_routes(around, api, self.settings.credentials, rates, help_page=self.help_page)

    def overview(self, now: float) -> Mapping[str, Any]:
        """Return the quota day, its limits and what was spent of them."""
        ledger = self.account.ledger
        return {
            "window": ALIBABA_DAY.start(now),
            "resets_at": ALIBABA_DAY.end(now),
            "limits": {kind.value: limit for kind, limit in ledger.limits.items()},
            "remaining": {kind.value: ledger.remaining(kind, now) for kind in ledger.limits},
            "accepted": {str(start): units for start, units in ledger.windows().items()},
        }


class DcdnEmulator(Emulator):
    """A local Alibaba DCDN."""

    versions = DCDN_VERSIONS
    rates = DCDN_CALLS_PER_SECOND
    help_page = "https://next.api.aliyun.com/document/dcdn/2018-01-15/errorCode"
    table = fault_table(DCDN_VERSIONS)
