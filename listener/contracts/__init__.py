"""
The contracts of plugins: a source reports changes of a storage, a target sends refreshes to a CDN or a cache.

A plugin is a class behind an entry point (group ``listener.sources`` or ``listener.targets``) whose name is the
``type`` in the configuration. ``docs/extend`` shows one of each; ``listener.testing`` tests them.

================= ======================================================================================
derive from       and write
================= ======================================================================================
`SourceBase`      ``Settings``, ``deliveries``, ``check``
`TargetBase`      ``Settings``, ``limits``, ``submit``, ``check``
================= ======================================================================================

:class:`Source` and :class:`Target` list everything that the product calls. The other protocols are optional: a plugin
that has the methods of one gets what it describes.
"""

from __future__ import annotations

from listener.contracts.checks import Check, CheckState, NeedsCredentials
from listener.contracts.questions import (
    AWS_KEY,
    NO_QUESTIONS,
    TARGET_NAME,
    Credential,
    Questions,
    SettingQuestion,
    secret_setting,
)
from listener.contracts.sources import (
    HELD_DELETIONS,
    WAITING_SINCE,
    ConfirmsDeletions,
    Delivery,
    DirectoryComparison,
    Ignoring,
    IndexView,
    ProvidesSetup,
    Rescans,
    Source,
    SourceBase,
    SourceHealth,
    SourceState,
    Unreadable,
    no_ack,
    parts_of,
)
from listener.contracts.targets import (
    ChecksDeadline,
    ChecksUrls,
    Eviction,
    FindsTasks,
    JoinsUrls,
    KindLimits,
    Pace,
    RateLeft,
    ReportsRates,
    ReportsTasks,
    Target,
    TargetBase,
    UnknownOutcome,
    confirms,
    evicts_directories,
    token_mark,
)
from listener.refresh import UNLIMITED

__all__ = [
    "AWS_KEY",
    "HELD_DELETIONS",
    "NO_QUESTIONS",
    "TARGET_NAME",
    "UNLIMITED",
    "WAITING_SINCE",
    "Check",
    "CheckState",
    "ChecksDeadline",
    "ChecksUrls",
    "ConfirmsDeletions",
    "Credential",
    "Delivery",
    "DirectoryComparison",
    "Eviction",
    "FindsTasks",
    "Ignoring",
    "IndexView",
    "JoinsUrls",
    "KindLimits",
    "NeedsCredentials",
    "Pace",
    "ProvidesSetup",
    "Questions",
    "RateLeft",
    "ReportsRates",
    "ReportsTasks",
    "Rescans",
    "SettingQuestion",
    "Source",
    "SourceBase",
    "SourceHealth",
    "SourceState",
    "Target",
    "TargetBase",
    "UnknownOutcome",
    "Unreadable",
    "confirms",
    "evicts_directories",
    "no_ack",
    "parts_of",
    "secret_setting",
    "token_mark",
]
