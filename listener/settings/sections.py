"""The tables ``[store]``, ``[coalescer]``, ``[planner]``, ``[verifier]`` and ``[admin]``."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from listener.configuration import DEFAULT_STORE, GROUP_SOCKET_SUFFIX, expanded, is_postgres
from listener.settings.edge import Edge, edge_of

__all__ = [
    "AdminSettings",
    "Approval",
    "CoalescerSettings",
    "EdgeSettings",
    "FilePath",
    "Fraction",
    "Listed",
    "PlannerSettings",
    "Seconds",
    "Section",
    "StoreSettings",
    "VerifierSettings",
    "host_and_port",
    "is_loopback",
]

_SOCKET_BYTES: Final = 107 - len(GROUP_SOCKET_SUFFIX)
"""The size of ``sun_path`` (unix(7)) without its final zero, and without the end of the name of the second socket."""


FilePath = Annotated[Path, AfterValidator(expanded)]
"""A path on this machine; ``~`` is the home directory of the user who runs the process."""
Listed: Final = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
"""Accepts one text where a list is expected."""
Seconds = Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
"""A span of at most a year."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the configuration: rejects unknown keys, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(Section):
    """Where state is stored."""

    url: Annotated[str, Field(repr=False)] = DEFAULT_STORE
    """``sqlite:////absolute/path``, ``sqlite:///~/path`` or ``sqlite:///relative/path``. A relative path begins in
    the directory of the configuration file, one from the environment in the current directory. The default is a file
    in the directory that belongs to the systemd unit and the container image."""
    keep_days: Annotated[float, Field(gt=0, le=3660)] = 30.0
    """Days to keep settled attempts, the audit trail, backfill progress, and data about names that are no longer
    configured. What belongs to the current quota day is always kept."""
    prepared: bool = True
    """Let PostgreSQL keep statements prepared. ``false`` behind PgBouncer in transaction mode before 1.22."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not (url.startswith("sqlite://") or is_postgres(url)):
            raise ValueError("must start with sqlite:/// or postgresql://")
        return url


class CoalescerSettings(Section):
    """How long changes are gathered before a refresh is planned."""

    quiet_seconds: Seconds = 1.0
    """A URL is due once nothing happened to it for this long. One second merges the events of one save or deploy
    step, and is short compared with the five minutes that a refresh takes."""
    cap_seconds: Seconds = 30.0
    """A URL that keeps changing is due this long after its first change anyway."""
    unfinished_quiet_seconds: Seconds = 5.0
    """Like ``quiet_seconds``, for an object that may still be being written. Longer, because refreshing a half-
    written file wastes quota."""
    unfinished_cap_seconds: Seconds = 60.0
    """Like ``cap_seconds``, for an object that may still be being written."""

    @model_validator(mode="after")
    def _caps_follow_quiet(self) -> Self:
        for prefix in ("", "unfinished_"):
            quiet, cap = getattr(self, f"{prefix}quiet_seconds"), getattr(self, f"{prefix}cap_seconds")
            if cap < quiet:
                raise ValueError(f"{prefix}cap_seconds ({cap}) is below {prefix}quiet_seconds ({quiet})")
        return self


class Approval(Section):
    """Plans above these numbers wait for approval; 0: never."""

    file: Annotated[int, Field(ge=0)] = 0
    """File refreshes in one plan."""
    directory: Annotated[int, Field(ge=0)] = 0
    """Directory refreshes in one plan."""


class PlannerSettings(Section):
    """How quota is spent."""

    reserve: Fraction = 0.1
    """Part of each allowance (a day's quota, a month's paths) that only urgent refreshes may use, so that an emergency
    late in the day or the month can be handled."""
    approve_above: Approval = Approval()
    """A plan that would spend more than this at once waits for ``cdn-listener approve``, since it is more often a
    mistake than a deploy. Manual requests need no approval."""
    object_dollars: Annotated[float, Field(gt=0)] = 0.001
    """What keeping one unchanged object in the cache, or one changed object stale for an hour less, is worth in
    dollars, where refreshes cost money (``monthly_dollars``). At 0.001 a path of 0.005 dollars is bought for a page
    that would else stay stale for more than five hours, and to spare more than five objects from eviction. The storage
    alone would make it less (a request to S3 costs 0.0000004 dollars for each cache): most of it is what
    visitors get, a cached page instead of a slow one, and a fresh one instead of a stale one. Lower it to spend less
    of the budget and evict more; the budget itself is never exceeded."""
    time_zone: str = "UTC"
    """The time zone of every site's ``directory_blackout``, such as ``Asia/Shanghai``."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError("is not a time zone; use a name such as Asia/Shanghai or UTC") from None
        return zone


def _edge_text(text: str) -> str:
    return str(edge_of(text))


class EdgeSettings(Section):
    """How it is observed what visitors get."""

    mode: Literal["off", "sample", "all"] = "off"
    """Probe URLs after their refresh is complete: as many as the limit allows, chosen at random (``sample``), or each
    of them (``all``), late where they are more. Off by default, since probes are traffic at the edge."""
    after_seconds: Seconds = 10.0
    """How long after the refresh is complete: points of presence may be a little later than the CDN's report."""
    repeat_share: Fraction = 0.05
    """Part of each quota that may be spent on refreshing once more what an edge still serves."""
    edges: Annotated[tuple[Annotated[str, AfterValidator(_edge_text)], ...], Listed] = ()
    """IP addresses of points of presence, with ``:PORT`` where it is not that of the URL. Each is requested with the
    host of the site. Without one, a URL is requested where its name leads; a private address must be stated here."""
    per_minute: Annotated[float, Field(gt=0, le=60_000)] = 60.0
    """Requests a minute at most. A probe takes one or two, since a stale answer is confirmed."""

    @property
    def addresses(self) -> tuple[Edge, ...]:
        """The addresses, read."""
        return tuple(map(edge_of, self.edges))


class VerifierSettings(Section):
    """How tasks are followed until they finish."""

    first_seconds: Seconds = 60.0
    """First check of a task this long after it was accepted. Earlier checks mostly find it running."""
    interval_seconds: Annotated[Seconds, Field(gt=0)] = 30.0
    """Shortest time between two checks of a task; it grows while the task is unfinished."""
    give_up_seconds: Annotated[Seconds, Field(gt=0)] = 3600.0
    """A task that is not finished after this long is reported as unconfirmed, and never re-sent merely because it is
    old. An hour is ten times what Alibaba Cloud states as usual."""
    edge: EdgeSettings = EdgeSettings()
    """How it is observed what visitors get."""


def host_and_port(listen: str) -> tuple[str, int]:
    """Return the parts of an address ``host:port``, an IPv6 host without its brackets. Raise ValueError."""
    host, separator, port = listen.rpartition(":")
    if not (separator and host and port.isdecimal() and port.isascii() and int(port) < 65536):
        raise ValueError("must be host:port, as in 127.0.0.1:9180")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Return whether an address ``host:port`` is reachable from this machine only."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AdminSettings(Section):
    """The HTTP port for the status page, probes and metrics."""

    listen: str = "127.0.0.1:9180"
    """``host:port`` of the status page, ``/livez``, ``/readyz`` and ``/metrics``; ``[::]`` listens on IPv4 and IPv6;
    empty turns the port off. Loopback by default: without a token, any client that can reach the port may read
    everything."""
    socket: str = ""
    """A Unix socket that serves the same, open to the user and group of the daemon. Members of that group may also use
    commands such as ``hold``, ``release``, ``wait`` and ``refresh``, through a second socket next to it
    (``admin.sock.commands``). Default: ``admin.sock`` in systemd's ``$RUNTIME_DIRECTORY``, or none."""
    token: Annotated[SecretStr, Field(min_length=16, max_length=4096)] | None = None
    """If set, everything except ``/livez`` and ``/readyz`` requires it (``Authorization: Bearer``, or the page's
    sign-in), and the page can retry, discard and refresh. At least 16 characters. Set it with
    ``LISTENER_ADMIN__TOKEN_FILE`` or the credential ``admin.token``."""
    hosts: tuple[str, ...] = ()
    """Host names under which browsers may reach the port, besides ``localhost`` and IP addresses. Others are
    rejected, since another website could point its own name here (DNS rebinding)."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        if listen:
            host_and_port(listen)
        return listen

    @field_validator("socket")
    @classmethod
    def _absolute_and_short(cls, socket: str) -> str:
        if socket and not (socket.startswith("/") and "\0" not in socket and len(os.fsencode(socket)) <= _SOCKET_BYTES):
            raise ValueError(f"must be an absolute path of at most {_SOCKET_BYTES} bytes, or empty")
        return socket
