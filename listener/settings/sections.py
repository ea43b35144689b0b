"""The tables of the stages: store, coalescer, planner, verifier, admin."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

__all__ = [
    "Admin",
    "Approval",
    "Coalescer",
    "FilePath",
    "Fraction",
    "Planner",
    "Seconds",
    "Section",
    "Store",
    "Verifier",
    "expanded",
]

_SOCKET_BYTES: Final = 107
"""What fits into ``sun_path`` (unix(7)) with its final zero."""
_DATABASES: Final = ("sqlite", "postgresql", "postgres")


def expanded(path: Path) -> Path:
    """Return the path with a leading ``~`` or ``~user`` as that home directory; as it is where none is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


FilePath = Annotated[Path, AfterValidator(expanded)]
"""A path of this machine; ``~`` is the home directory of whoever runs the process."""
Seconds = Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
"""A span of at most a year."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the configuration: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Store(Section):
    """Where state is kept."""

    url: str = "sqlite:////var/lib/cdn-listener/state.db"
    """``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``sqlite:///~/path`` or ``postgresql://…``. By
    default a file in the directory that the systemd unit and the container image own."""
    keep_days: Annotated[float, Field(gt=0, le=3660)] = 30.0
    """Days for which settled attempts, the audit trail, progress of backfills and what is known of names that are
    configured no longer are kept: a month, so that last month's
    quota can be explained, and no more, so that the file does not grow for ever. What belongs to the
    running quota day stays in any case."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        scheme, separator, rest = url.partition(":")
        if scheme not in _DATABASES or not separator or not rest.startswith("//"):
            raise ValueError("must start with sqlite:/// or postgresql://")
        return url


class Coalescer(Section):
    """How long changes are gathered before a refresh is planned."""

    quiet_seconds: Seconds = 1.0
    """A URL is due once nothing happened to it for so long. A second joins the events of one save or
    one deploy step and is short beside the five minutes that a refresh takes."""
    cap_seconds: Seconds = 30.0
    """A URL that never comes to rest is due so long after its first change anyway."""
    unfinished_quiet_seconds: Seconds = 5.0
    """As ``quiet_seconds``, for an object whose writer may not be done; longer, because refreshing a
    half-written file spends quota on a copy that is stale again at once."""
    unfinished_cap_seconds: Seconds = 60.0
    """As ``cap_seconds``, for an object whose writer may not be done."""

    @model_validator(mode="after")
    def _caps_follow_quiet(self) -> Self:
        for prefix in ("", "unfinished_"):
            quiet, cap = getattr(self, f"{prefix}quiet_seconds"), getattr(self, f"{prefix}cap_seconds")
            if cap < quiet:
                raise ValueError(f"{prefix}cap_seconds ({cap}) is below {prefix}quiet_seconds ({quiet})")
        return self


class Approval(Section):
    """Plans above these numbers wait for a person; 0 never asks."""

    file: Annotated[int, Field(ge=0)] = 0
    """URL refreshes in one plan."""
    directory: Annotated[int, Field(ge=0)] = 0
    """Directory refreshes in one plan."""


class Planner(Section):
    """How quota is spent."""

    reserve: Fraction = 0.1
    """Part of a day's quota that only urgent refreshes may use: a tenth, so that an emergency at the
    end of the day can still be answered."""
    approve_above: Approval = Approval()
    """A plan that would spend more at once waits for ``cdn-listener approve``: so much is more often a mistake than a
    deploy. What people ask for by hand is approved by that."""
    time_zone: str = "UTC"
    """The zone of every site's ``directory_blackout``, as in ``Asia/Shanghai``."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError("is no time zone; write one as in Asia/Shanghai, or UTC") from None
        return zone


class Verifier(Section):
    """How tasks are followed to their end."""

    first_seconds: Seconds = 60.0
    """The first look at a task comes so long after it was accepted; earlier looks mostly find it running."""
    interval_seconds: Annotated[Seconds, Field(gt=0)] = 30.0
    """The shortest time between two looks at one task; it grows while the task stays unfinished."""
    give_up_seconds: Annotated[Seconds, Field(gt=0)] = 3600.0
    """A task that is not done by then is unconfirmed: told, and not sent again for its age alone. An
    hour is ten times what Alibaba Cloud names as usual."""


def is_loopback(listen: str) -> bool:
    """Return whether an address ``host:port`` can be reached from this machine only."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Admin(Section):
    """The HTTP port for people and probes."""

    listen: str = "127.0.0.1:9180"
    """``host:port`` of the status page, ``/livez``, ``/readyz`` and ``/metrics``; ``[::]`` takes IPv4 and IPv6; empty
    turns it off. Loopback by default, because without a token any client that reaches it may read everything."""
    socket: str = ""
    """A Unix socket that serves the same, for commands of this machine; empty: ``admin.sock`` in the directory that
    systemd names (``$RUNTIME_DIRECTORY``), without one none. Open to the user and the group of the daemon."""
    token: Annotated[SecretStr, Field(min_length=16, max_length=4096)] | None = None
    """Once set, everything but ``/livez`` and ``/readyz`` asks for it (``Authorization: Bearer``, or the page's
    sign-in), and the page can retry, discard and refresh. At least 16 characters: it is the only thing between
    a network and your quota. By environment, ``LISTENER_ADMIN__TOKEN_FILE`` or the credential ``admin.token``."""
    hosts: tuple[str, ...] = ()
    """Names under which browsers reach the port, beside ``localhost`` and plain addresses: others are refused,
    since a page elsewhere could make its own name point here (DNS rebinding)."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        host, separator, port = listen.rpartition(":")
        if listen and not (separator and host and port.isdecimal() and port.isascii() and int(port) < 65536):
            raise ValueError("must be host:port, as in 127.0.0.1:9180, or empty")
        return listen

    @field_validator("socket")
    @classmethod
    def _absolute_and_short(cls, socket: str) -> str:
        if socket and not (socket.startswith("/") and "\0" not in socket and len(os.fsencode(socket)) <= _SOCKET_BYTES):
            raise ValueError(f"must be an absolute path of at most {_SOCKET_BYTES} bytes, or empty")
        return socket
