"""Refreshing and prefetching by hand: through the same store and ledger as everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from listener.cli.common import load, print_json, run_async

if TYPE_CHECKING:
    from listener.backfill import RequestedUrl, RequestOutcome
    from listener.contracts import Target
    from listener.refresh import Scope
    from listener.settings import Settings
    from listener.store import Store

__all__ = ["Order", "carry_out"]

PATIENCE_SECONDS = 15.0
"""How long a daemon may leave something due unsent before ``--wait`` takes it for deferred."""
POLL_SECONDS = 0.2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a person asked for."""

    urls: Sequence[str]
    prefetch: bool = False
    directory: bool = False
    urgent: bool = False
    reason: str | None = None
    target: str | None = None
    wait: bool = False


def carry_out(config: Path | None, order: Order, *, as_json: bool) -> int:
    """Ask for it, send it (or let the daemon), tell what became of it, and return the exit status."""
    from listener.errors import ConfigurationError

    if order.urgent and not (order.reason or "").strip():
        raise ConfigurationError(
            "--urgent needs --reason TEXT: the reserve is spent, and the audit says why",
            hint='add --reason "what is so urgent"',
        )
    found, interrupted, sent_here = run_async(_carry_out(load(config), order))
    if as_json:
        print_json(
            {"sent_by": "this process" if sent_here else "daemon", "urls": [_plain(outcome) for outcome in found]}
        )
    else:
        for one in found:
            line = f"{one.state}  {one.wanted.target}  {one.wanted.url}  {one.reason or one.task_id}"
            typer.echo(line.rstrip())
        if not sent_here and not order.wait:
            typer.echo("a daemon owns the state file and sends them; --wait waits for the outcome")
    if interrupted:
        return INTERRUPTED
    decided = sent_here or order.wait
    return 3 if decided and any(outcome.put_off for outcome in found) else 0


def _plain(outcome: RequestOutcome) -> dict[str, Any]:
    return {
        "url": outcome.wanted.url,
        "target": outcome.wanted.target,
        "state": outcome.state,
        "reason": outcome.reason,
        "task_id": outcome.task_id,
    }


async def _carry_out(settings: Settings, order: Order) -> tuple[list[RequestOutcome], bool, bool]:
    from listener.backfill import opened, outcomes, run_until_idle
    from listener.plugins import load_targets
    from listener.store import NeedInput

    targets = load_targets(settings)
    wanted = _wanted(settings, targets, order)
    async with opened(settings, targets) as store:
        if store.owner:
            await _probe({one.target: targets[one.target] for one in wanted})
        inputs = [NeedInput(one.target, one.url, one.scope) for one in wanted]
        await store.request(inputs, urgent=order.urgent, reason=order.reason)
        if store.owner:
            pipeline, interrupted = await run_until_idle(settings, store, targets, follow=order.wait)
            return await outcomes(store, wanted, pipeline), interrupted, True
        if order.wait:
            return await _settled(store, wanted), False, False
        return await outcomes(store, wanted), False, False


async def _probe(targets: Mapping[str, Target]) -> None:
    """Ask each account something harmless: a wrong key or clock is told before anything is kept."""
    from listener.errors import Misconfigured, TargetError

    for name, target in targets.items():
        try:
            await target.read_quota()
        except Misconfigured as error:
            raise Misconfigured(f"target {name}: {error}", hint=error.hint, code=error.code) from error
        except TargetError:
            continue  # it may come back while the pipeline runs; else the need waits, and that is told


async def _settled(store: Store, wanted: Sequence[RequestedUrl]) -> list[RequestOutcome]:
    """Wait until the daemon has settled everything, or leaves it lying."""
    from listener.backfill import outcomes

    moved_at, last = time.monotonic(), [""]
    while True:
        found = await outcomes(store, wanted)
        states = [outcome.state for outcome in found]
        if states != last:
            moved_at, last = time.monotonic(), states
        lying = (
            all(outcome.settled or outcome.put_off for outcome in found)
            and time.monotonic() - moved_at > PATIENCE_SECONDS
        )
        if lying or all(outcome.settled for outcome in found):
            return found
        await asyncio.sleep(POLL_SECONDS)


def _wanted(settings: Settings, targets: Mapping[str, Target], order: Order) -> list[RequestedUrl]:
    from listener.errors import ConfigurationError
    from listener.router.serving import normal_or_refused
    from listener.settings import nearest

    if order.target is not None and order.target not in targets:
        raise ConfigurationError(f"there is no target {order.target!r}", hint=nearest(order.target, targets))
    found = [one for url in order.urls for one in _of(settings, normal_or_refused(url), _scope(order), order.target)]
    return list(dict.fromkeys(found))


def _scope(order: Order) -> Scope:
    from listener.refresh import Scope

    if order.prefetch:
        return Scope.PREFETCH
    return Scope.SUBTREE if order.directory else Scope.EXACT


def _of(settings: Settings, url: str, scope: Scope, target: str | None) -> list[RequestedUrl]:
    """Return what to ask of which target: every layer of the site with the longest base URL that holds it."""
    from listener.backfill import RequestedUrl
    from listener.errors import ConfigurationError
    from listener.refresh import Scope
    from listener.router import Router
    from listener.router.serving import served_by

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
