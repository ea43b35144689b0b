"""``cdn-listener check``: try everything that the configuration names, and change nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from listener.configuration import is_postgres, sqlite_path
from listener.contracts import Check, CheckState, Source, Target
from listener.errors import ListenerError, StoreError
from listener.pipeline.accounts import DEFAULT_SHARE, accounts_of, sets_a_share
from listener.serving import try_address
from listener.settings import Settings, is_loopback
from listener.store.owner import described, owner_of
from listener.store.sqlite.database import format_version

__all__ = ["run_checks"]

CHECK_SECONDS = 90.0
"""A check that takes longer than all timeouts of its calls together hangs."""


async def run_checks(settings: Settings, sources: Mapping[str, Source], targets: Mapping[str, Target]) -> list[Check]:
    """Check the state file, the admin port, and each source and target; return the results in this order."""
    found = [await asyncio.to_thread(_check_store, settings), *await asyncio.to_thread(_check_admin, settings)]
    found += _check_shares(settings, targets)
    for name, source in sources.items():
        found += await _bounded(f"sources.{name}", source.check)
    for name, target in targets.items():
        found += await _bounded(f"targets.{name}", target.check)
        await target.close()
    return found


def _check_shares(settings: Settings, targets: Mapping[str, Target]) -> list[Check]:
    """Warn about each account whose whole quota any one of several sites may spend."""
    found = []
    for name, account in accounts_of(targets).items():
        sites = [site for site in settings.sites if account.targets.keys() & set(site.targets)]
        if len(sites) < 2 or sets_a_share(sites):
            continue
        message = (
            f"{len(sites)} sites share its quota, and any one of them may spend {DEFAULT_SHARE:.0%} of it in a day"
        )
        hint = "give each of the [[sites]] a share = { file = 0.5, directory = 0.5 }, or a guaranteed part"
        found.append(Check(f"account {name}", CheckState.WARNING, message, hint))
    return found


async def _bounded(subject: str, check: Callable[[], Awaitable[Sequence[Check]]]) -> Sequence[Check]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return [Check(subject, CheckState.FAILED, f"no answer within {CHECK_SECONDS:.0f} s", "look at the network")]
    except ListenerError as error:
        return [Check(subject, CheckState.FAILED, str(error), error.hint)]


def _check_store(settings: Settings) -> Check:
    try:
        if is_postgres(settings.store.url):
            return Check("store", CheckState.OK, described(settings.store.url))
        path = sqlite_path(settings.store.url)
        if not path.exists():
            return _check_directory(path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK), str(path))
        return _check_file(path, settings.store.url)
    except ListenerError as error:
        return Check("store", CheckState.FAILED, str(error), error.hint)
    except OSError as error:
        return Check("store", CheckState.FAILED, f"state file: {error}", "store.url: repair its directory")


def _check_file(path: Path, url: str) -> Check:
    """Read the file's version without making or changing anything; raise StoreError for one that cannot be used."""
    version = format_version(path)
    if not os.access(path, os.W_OK):
        raise StoreError(f"state file {path}: is not writable", hint=f"give user {os.geteuid()} the right to write it")
    pid = owner_of(url).pid
    return Check("store", CheckState.OK, f"{path}, format {version}" + (f", owned by process {pid}" if pid else ""))


def _check_directory(usable: bool, path: str) -> Check:
    if usable:
        return Check("store", CheckState.OK, f"{path} does not exist yet and can be made")
    directory = os.path.dirname(path) or "."  # noqa: PTH120 - a text is wanted
    return Check(
        "store",
        CheckState.FAILED,
        f"state file {path}: its directory does not exist or is not writable",
        f"store.url: mkdir -p {directory}, writable for user {os.geteuid()}",
    )


def _check_admin(settings: Settings) -> list[Check]:
    listen = settings.admin.listen
    if not listen:
        return [Check("admin", CheckState.OK, "turned off")]
    host, _, port = listen.rpartition(":")
    error: object = try_address(host.strip("[]"), int(port))
    if error is not None and _is_ours(host.strip("[]"), int(port)):
        error = "another cdn-listener daemon uses it" if _no_daemon_runs(settings) else None
        served = f"{listen} is served by the daemon that runs"
    else:
        served = f"{listen} is free"
    if error is None:
        found = Check("admin", CheckState.OK, served)
    else:
        hint = 'admin.listen: name another address, or "" for none'
        found = Check("admin", CheckState.FAILED, f"cannot listen on {listen}: {error}", hint)
    return [found, *_check_token(settings)]


def _check_token(settings: Settings) -> list[Check]:
    if settings.admin.token is not None or is_loopback(settings.admin.listen):
        return []
    message = f"unauthenticated: any client that can reach {settings.admin.listen} reads the status page and metrics"
    hint = "set LISTENER_ADMIN__TOKEN_FILE or the credential admin.token, or listen on 127.0.0.1"
    return [Check("admin.token", CheckState.WARNING, message, hint)]


def _no_daemon_runs(settings: Settings) -> bool:
    """Return whether it is certain that no process sends from this state file."""
    try:
        return owner_of(settings.store.url).is_running is False
    except ListenerError:
        return False


def _is_ours(host: str, port: int) -> bool:
    """Return whether the process that listens there answers ``/livez`` as the daemon does."""
    try:
        with socket.create_connection((host, port), timeout=2) as channel:
            channel.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            answer = b""
            while len(answer) < 4096 and (part := channel.recv(4096)):
                answer += part
        return "alive" in json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return False
