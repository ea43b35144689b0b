"""``cdn-listener refresh`` and ``prefetch``: manual requests, through the same store and ledger as everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from listener.cli.common import load, print_json, run_async, say
from listener.cli.options import Argument, ConfigOption, JsonOption, Option
from listener.cli.reporting import INTERRUPTED

if TYPE_CHECKING:
    from listener.backfill import RequestedUrl, RequestOutcome
    from listener.contracts import Target
    from listener.refresh import Scope
    from listener.settings import Settings
    from listener.store import Store

__all__ = ["prefetch", "refresh"]

STALLED_SECONDS = 15.0
"""How long a daemon may leave something due unsent before ``--wait`` counts it as deferred."""
POLL_SECONDS = 0.2
OnlyTargetOption = Annotated[str | None, Option("--target", metavar="NAME", help="Only this target.")]
WaitOption = Annotated[bool, Option("--wait", help="Wait until the CDN reports completion.")]


def refresh(
    urls: Annotated[list[str], Argument(metavar="URL...", help="URLs to refresh, below a site's base URL.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    directory: Annotated[
        bool, Option("--directory", help="Refresh everything below each URL, which must end with /.")
    ] = False,
    urgent: Annotated[bool, Option("--urgent", help="Send at once, from the reserve; needs --reason.")] = False,
    reason: Annotated[str | None, Option("--reason", metavar="TEXT", help="Why. Kept in the audit.")] = None,
    target: OnlyTargetOption = None,
    wait: WaitOption = False,
) -> int:
    """Refresh URLs now, within the quota. Exit status 3 if something was deferred or rejected."""
    request = _ManualRequest(urls=urls, directory=directory, urgent=urgent, reason=reason, target=target, wait=wait)
    return _send(config, request, as_json=as_json)


def prefetch(
    urls: Annotated[list[str], Argument(metavar="URL...", help="URLs to fetch, below a site's base URL.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: OnlyTargetOption = None,
    wait: WaitOption = False,
) -> int:
    """Fetch URLs into the cache, after any refresh of them. Exit status 3 if something was deferred or rejected."""
    return _send(config, _ManualRequest(urls=urls, prefetch=True, target=target, wait=wait), as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ManualRequest:
    urls: Sequence[str]
    prefetch: bool = False
    directory: bool = False
    urgent: bool = False
    reason: str | None = None
    target: str | None = None
    wait: bool = False

    @property
    def scope(self) -> Scope:
        """What of each URL is requested."""
        from listener.refresh import Scope

        if self.prefetch:
            return Scope.PREFETCH
        return Scope.SUBTREE if self.directory else Scope.EXACT


def _send(config: Path | None, request: _ManualRequest, *, as_json: bool) -> int:
    """Record the request, send it (or let the daemon send it), print the outcome and return the exit status."""
    from listener.errors import ConfigurationError

    if request.urgent and not (request.reason or "").strip():
        raise ConfigurationError(
            "--urgent needs --reason TEXT: it spends the reserve, and the audit records why",
            hint='add --reason "wrong price"',
        )
    found, interrupted, sent_here = run_async(_record_and_send(load(config), request))
    if as_json:
        sent_by = "this process" if sent_here else "daemon"
        print_json({"sent_by": sent_by, "urls": [_plain(one) for one in found]})
    else:
        for one in found:
            say(f"{one.state}  {one.wanted.target}  {one.wanted.url}  {one.reason or one.task_id}".rstrip())
        if not sent_here and not request.wait:
            say("the running daemon sends them; --wait waits for the outcome")
    if interrupted:
        return INTERRUPTED
    return 3 if (sent_here or request.wait) and any(one.put_off for one in found) else 0


def _plain(outcome: RequestOutcome) -> dict[str, Any]:
    wanted = outcome.wanted
    return {
        "url": wanted.url,
        "target": wanted.target,
        "state": outcome.state,
        "reason": outcome.reason,
        "task_id": outcome.task_id,
    }


async def _record_and_send(settings: Settings, request: _ManualRequest) -> tuple[list[RequestOutcome], bool, bool]:
    from listener.backfill import opened, outcomes, run_until_idle
    from listener.plugins import load_targets
    from listener.store import NeedInput

    targets = load_targets(settings)
    wanted = _wanted(settings, targets, request)
    async with opened(settings, targets) as store:
        if store.owner:
            await _try_credentials({one.target: targets[one.target] for one in wanted})
        inputs = [NeedInput(one.target, one.url, one.scope) for one in wanted]
        await store.request(inputs, urgent=request.urgent, reason=request.reason)
        if store.owner:
            pipeline, interrupted = await run_until_idle(settings, store, targets, follow=request.wait)
            return await outcomes(store, wanted, pipeline), interrupted, True
        if request.wait:
            return await _settled(store, wanted), False, False
        return await outcomes(store, wanted), False, False


async def _try_credentials(targets: Mapping[str, Target]) -> None:
    """Read each account's quota, so that a wrong key or clock is reported before anything is recorded."""
    from listener.errors import Misconfigured, TargetError

    for name, target in targets.items():
        try:
            await target.read_quota()
        except Misconfigured as error:
            raise Misconfigured(f"target {name}: {error}", hint=error.hint, code=error.code) from error
        except TargetError:
            continue  # it may recover while the pipeline runs; else the need is deferred, and the outcome says so


async def _settled(store: Store, wanted: Sequence[RequestedUrl]) -> list[RequestOutcome]:
    """Wait until the daemon has settled everything, or has made no progress with the rest for a while."""
    from listener.backfill import outcomes

    moved_at, last = time.monotonic(), [""]
    while True:
        found = await outcomes(store, wanted)
        states = [one.state for one in found]
        if states != last:
            moved_at, last = time.monotonic(), states
        stalled = time.monotonic() - moved_at > STALLED_SECONDS
        if stalled:
            found = [_deferred(one) if one.state == "pending" else one for one in found]
        if all(one.settled or (stalled and one.put_off) for one in found):
            return found
        await asyncio.sleep(POLL_SECONDS)


def _deferred(outcome: RequestOutcome) -> RequestOutcome:
    """Return the outcome of what the daemon has not sent for a while: it waits for quota, or for the daemon."""
    reason = f"the daemon has not sent it; for the reason: cdn-listener status --url {outcome.wanted.url}"
    return replace(outcome, state="deferred", reason=reason)


def _wanted(settings: Settings, targets: Mapping[str, Target], request: _ManualRequest) -> list[RequestedUrl]:
    from listener.errors import ConfigurationError
    from listener.router.routing import normal_or_refused
    from listener.settings import nearest

    if request.target is not None and request.target not in targets:
        raise ConfigurationError(f"there is no target {request.target!r}", hint=nearest(request.target, targets))
    found = [
        one
        for url in request.urls
        for one in _by_target(settings, normal_or_refused(url), request.scope, request.target)
    ]
    return list(dict.fromkeys(found))


def _by_target(settings: Settings, url: str, scope: Scope, target: str | None) -> list[RequestedUrl]:
    """Return what to request of which target: every layer of the site with the longest matching base URL."""
    from listener.backfill import RequestedUrl
    from listener.errors import ConfigurationError
    from listener.refresh import Scope
    from listener.router import Router
    from listener.router.routing import served_by

    if scope is Scope.SUBTREE and ("?" in url or not url.endswith("/")):
        raise ConfigurationError(
            f"{url}: a directory's URL ends with / and has no query", hint=f"write {url.partition('?')[0]}/"
        )
    site = served_by(settings.sites, url, target=target).site
    names = [target] if target is not None else list(site.targets)
    router = Router(settings.sites)
    if scope is Scope.SUBTREE and not all(router.depth_floor(name, url) for name in names):
        raise ConfigurationError(
            f"{url}: is above the blast radius of its site (min_directory_depth = {site.min_directory_depth})",
            hint="refresh the directories below it, or lower that setting",
        )
    return [RequestedUrl(name, url, scope) for name in names]
