"""The tables ``[instance]`` and ``[fleet]``: which of several instances this is, and how they share a store."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, field_validator

from listener.settings.sections import Seconds, Section

__all__ = ["FleetSettings", "InstanceSettings", "replicas_of_trees"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
"""Host names and names of pods, which are at most 253 characters (RFC 1035, Kubernetes)."""
NAME_HINT: Final = "Use letters, digits, dots, - and _, at most 253, beginning with a letter or digit."


class InstanceSettings(Section):
    """Which of several instances this one is."""

    name: str = ""
    """Names this instance in a fleet and in ``status``. The default is the host name. It must be unique in the fleet
    and stay the same after a restart: under a new name an instance's copy of a tree is compared from the start."""

    @field_validator("name")
    @classmethod
    def _valid(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name an instance. {NAME_HINT}")
        return name

    @property
    def effective_name(self) -> str:
        """The name, or else the host name."""
        return self.name or socket.gethostname()

    @property
    def is_valid(self) -> bool:
        """Whether the effective name can name an instance: not every host name can."""
        return _NAME.fullmatch(self.effective_name) is not None


class FleetSettings(Section):
    """How instances share a PostgreSQL store. A state file has one owner, so that these have no effect there."""

    lease_seconds: Annotated[Seconds, Field(ge=3, le=300)] = 6.0
    """How long the accounts of an instance that died wait until another takes them over. At least 3, so that a slow
    renewal does not end the lease."""
    replica_wait_seconds: Seconds = 30.0
    """How long a change waits until the other instances have the same content (``replicas = "each"``)."""
    replay_seconds: Seconds = 600.0
    """How long acknowledged deliveries of queues are kept on local disk, to record them again if the database loses
    commits in a failover."""


def replicas_of_trees(sources: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    """Return the setting ``replicas`` of each source that watches a file tree, by the source's name."""
    return {
        name: str(table.get("replicas", "one")) for name, table in sources.items() if table.get("type") == "filesystem"
    }
