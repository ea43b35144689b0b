"""What sources and targets share: checks, and the credentials that they need."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

__all__ = ["Check", "CheckState", "NeedsCredentials"]


class CheckState(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``cdn-listener check``."""

    subject: str
    """The setting or the thing that was checked, such as ``sources.www.path``."""
    state: CheckState
    message: str
    hint: str = ""
    """What to do, unless the state is OK."""


@runtime_checkable
class NeedsCredentials(Protocol):
    """A source or a target that can do nothing without credentials."""

    async def require_credentials(self) -> None:
        """
        Return when credentials are configured; make no call over the network.

        Raise :class:`~listener.errors.ConfigurationError` when they are missing or malformed: the daemon then refuses
        to start. A service that issues credentials and does not answer yet is no reason to raise.
        """
        ...
