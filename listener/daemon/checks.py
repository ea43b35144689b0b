"""``cdn-listener check``: try everything that the configuration names, and change nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from listener.configuration import is_postgres, sqlite_path, state_directory, unit_of
from listener.contracts import Check, CheckState, ChecksUrls, Source, Target
from listener.errors import ConfigurationError, ListenerError, StoreError
from listener.pipeline.accounts import accounts_of
from listener.pipeline.configured import left_over, reroute
from listener.pipeline.spenders import DEFAULT_SHARE, sets_a_share
from listener.plugins import foreign_distribution
from listener.refresh import RefreshKind
from listener.serving import try_address
from listener.settings import Settings, is_loopback
from listener.store import open_store
from listener.store.owner import described, exists, owner_of
from listener.store.sqlite.database import format_version
from listener.store.store import StoreOptions
from listener.text import counted

__all__ = ["FOREIGN_HINT", "run_checks"]

FOREIGN_HINT = "install cdn-listener into an environment of its own, or: pip uninstall listener, then reinstall it"

SYSTEMD = Path("/run/systemd/system")
"""Exists where systemd is the service manager (sd_booted(3))."""
CHECK_SECONDS = 90.0
"""A check that takes longer than all timeouts of its calls together hangs."""


async def run_checks(settings: Settings, sources: Mapping[str, Source], targets: Mapping[str, Target]) -> list[Check]:
    """Check the state file, the admin port, and each source and target; return the results in this order."""
    found = [
        *_check_installation(),
        await asyncio.to_thread(_check_store, settings),
        *await asyncio.to_thread(_check_admin, settings),
    ]
    found += [*_check_shares(settings, targets), *_check_allowances(targets), *_check_kinds(settings, targets)]
    found += await _check_left_over(settings, targets)
    for name, source in sources.items():
        found += await _bounded(f"sources.{name}", source.check)
    for name, target in targets.items():
        found += await _bounded(f"targets.{name}", partial(_check_target, settings, name, target))
        await target.close()
    return found


async def _check_target(settings: Settings, name: str, target: Target) -> Sequence[Check]:
    """Check a target, and where nothing failed the base URLs of its sites."""
    found = await target.check()
    if not isinstance(target, ChecksUrls) or any(one.state is CheckState.FAILED for one in found):
        return found
    urls = dict.fromkeys(url for site in settings.sites if name in site.targets for url in site.base_urls)
    return [*found, *await target.check_urls(list(urls))]


def _check_installation() -> list[Check]:
    """Fail where another distribution has files of our import name."""
    foreign = foreign_distribution()
    if not foreign:
        return []
    message = f"the distribution {foreign} is installed in the same environment, and has files of the same names"
    return [Check("installation", CheckState.FAILED, message, FOREIGN_HINT)]


async def _check_left_over(settings: Settings, targets: Mapping[str, Target]) -> list[Check]:
    """Warn about what the store keeps of names and URLs that are not configured, and what a start will reroute."""
    options = StoreOptions(instance=settings.instance.effective_name, prepared=settings.store.prepared)
    try:
        if not exists(settings.store.url):
            return []
        async with open_store(settings.store.url, options=options, readonly=True) as store:
            found = await left_over(store, settings, targets)
            moved = await reroute(store, settings, targets, is_trial=True)
    except (ConfigurationError, StoreError):
        return []  # the check of the store says why
    checks = [Check("store", CheckState.WARNING, one.what, one.remedy) for one in found]
    if moved:
        message = f"{counted(moved, 'stale URL')} that no site serves any more get other URLs when the daemon starts"
        checks.append(Check("sites", CheckState.OK, message))
    return checks


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


def _check_allowances(targets: Mapping[str, Target]) -> list[Check]:
    """Warn about targets of one account that give an allowance different limits."""
    found = []
    for name, account in accounts_of(targets).items():
        for one in account.allowances:
            limits = {
                target: each.limit
                for target, member in account.targets.items()
                for each in member.allowances
                if each.name == one.name
            }
            if len(set(limits.values())) > 1:
                listed = ", ".join(f"targets.{target} {limit}" for target, limit in limits.items())
                message = f"its targets disagree about the limit of {one.name}, so the lowest counts: {listed}"
                hint = (
                    "they spend the same: set it alike in all of them, or give those of other accounts another account"
                )
                found.append(Check(f"account {name}", CheckState.WARNING, message, hint))
    return found


def _check_kinds(settings: Settings, targets: Mapping[str, Target]) -> list[Check]:
    """Warn where a site needs a kind of request that one of its targets has not: what it is about stays stale there."""
    found = []
    for site in settings.sites:
        for name in site.targets:
            kinds = targets[name].limits if name in targets else dict.fromkeys(RefreshKind)
            subject = f"targets.{name}"
            if site.all_params and RefreshKind.IGNORE_PARAMS not in kinds:
                message = f"has no request for a path with any query, as all_params of {site.base_urls[0]} demands"
                hint = "set all_params = false and list the query_variants of that site, or use another target"
                found.append(Check(subject, CheckState.FAILED, message, hint))
            if RefreshKind.DIRECTORY not in kinds:
                message = (
                    f"refreshes single URLs only: below {site.base_urls[0]} a folder that is renamed, or deleted with"
                    f" more than {site.expand_limit} objects, stays stale until the caches drop its files by themselves"
                )
                hint = "raise expand_limit of the site; cancel what waits with cdn-listener cancel"
                found.append(Check(subject, CheckState.WARNING, message, hint))
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
            return _check_directory(path, settings)
        return _check_file(path, settings.store.url)
    except ListenerError as error:
        return Check("store", CheckState.FAILED, str(error), error.hint)
    except OSError as error:
        return _check_refused(error, unit_of(settings.origin.path))


def _check_refused(error: OSError, unit: str) -> Check:
    """Return the check of a state file that cannot be looked at; another user's unit may well be able to."""
    if unit and isinstance(error, PermissionError):
        what = f"state file: user {os.geteuid()} cannot read {error.filename}, which belongs to {unit}"
        return Check("store", CheckState.WARNING, what, "run check as root")
    what = f"state file {error.filename}: {error.strerror}"
    return Check("store", CheckState.FAILED, what, "store.url: repair its directory")


def _check_file(path: Path, url: str) -> Check:
    """Read the file's version without making or changing anything; raise StoreError for one that cannot be used."""
    version = format_version(path)
    if not os.access(path, os.W_OK):
        raise StoreError(f"state file {path}: is not writable", hint=f"give user {os.geteuid()} the right to write it")
    pid = owner_of(url).pid
    return Check("store", CheckState.OK, f"{path}, format {version}" + (f", owned by process {pid}" if pid else ""))


def _check_directory(path: Path, settings: Settings) -> Check:
    directory = path.parent
    if directory.is_dir() and os.access(directory, os.W_OK | os.X_OK):
        return Check("store", CheckState.OK, f"{path} does not exist yet and can be made")
    unit = unit_of(settings.origin.path)
    if unit and SYSTEMD.is_dir() and directory == state_directory({}, settings.origin.path) and not directory.exists():
        return Check("store", CheckState.OK, f"{path} does not exist yet: {unit} makes {directory} when it starts")
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
    served = f"{listen} is free"
    pid = None if error is None else _daemon_at(host.strip("[]"), int(port))
    if pid is not None:
        error = None if _may_be_ours(pid, settings) else f"another cdn-listener daemon uses it (process {pid})"
        served = f"{listen} is served by the daemon that runs (process {pid})"
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


def _may_be_ours(pid: int, settings: Settings) -> bool:
    """Return whether this daemon sends from this state file, as far as that can be known."""
    try:
        owner = owner_of(settings.store.url)
    except ListenerError:
        return True
    return owner.is_running is not False if owner.pid is None else owner.pid == pid


def _daemon_at(host: str, port: int) -> int | None:
    """Return the process that answers ``/livez`` there as the daemon does; None where none does."""
    try:
        with socket.create_connection((host, port), timeout=2) as channel:
            channel.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            answer = b""
            while len(answer) < 4096 and (part := channel.recv(4096)):
                answer += part
        found = json.loads(answer.partition(b"\r\n\r\n")[2])
        return int(found["pid"]) if "alive" in found else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
