"""``cdn-listener refresh`` and ``prefetch``: manual requests, through the same store and ledger as everything else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from listener.cli.common import load, print_json, run_async, say, senders
from listener.cli.daemon_client import call, call_daemon
from listener.cli.options import Argument, ConfigOption, JsonOption, Option, TargetOption
from listener.cli.reporting import INTERRUPTED
from listener.errors import ConfigurationError

if TYPE_CHECKING:
    from listener.settings import Settings

__all__ = ["prefetch", "refresh"]

STALLED_SECONDS = 15.0
"""How long a daemon may leave something due unsent before ``--wait`` counts it as deferred."""
POLL_SECONDS = 0.2
_SETTLED: Final = {"complete", "parked", "unconfirmed"}
"""Nothing more happens to it without people."""
_PUT_OFF: Final = {"deferred", "failed", "parked", "unconfirmed"}
"""It was not done, and waits for quota, time or people."""
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
    target: TargetOption = None,
    wait: WaitOption = False,
) -> int:
    """
    Refresh URLs now, within the quota. Exit status 3 if something was deferred or rejected.

    Where a daemon runs, it sends them: without --wait they are queued then, and the exit status is 0.
    """
    request = _ManualRequest(urls, "SUBTREE" if directory else "EXACT", urgent, reason, target)
    return _send(config, request, wait=wait, as_json=as_json)


def prefetch(
    urls: Annotated[list[str], Argument(metavar="URL...", help="URLs to fetch, below a site's base URL.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    wait: WaitOption = False,
) -> int:
    """
    Fetch URLs into the cache, after any refresh of them. Exit status 3 if something was deferred or rejected.

    Where a daemon runs, it sends them: without --wait they are queued then, and the exit status is 0.
    """
    return _send(config, _ManualRequest(urls, "PREFETCH", target=target), wait=wait, as_json=as_json)


class _ManualRequest(NamedTuple):
    urls: Sequence[str]
    scope: str = "EXACT"
    """A name of :class:`listener.refresh.Scope`."""
    urgent: bool = False
    reason: str | None = None
    target: str | None = None


def _send(config: Path | None, request: _ManualRequest, *, wait: bool, as_json: bool) -> int:
    """Let the daemon send the request, or send it, print the outcome and return the exit status."""
    if request.urgent and not (request.reason or "").strip():
        raise ConfigurationError(
            "--urgent needs --reason TEXT: it spends the reserve, and the audit records why",
            hint='add --reason "wrong price"',
        )
    found = call_daemon("request", config, **request._asdict())
    sent = _Sent(found or [])
    if found is None:
        sent = run_async(_record_and_send(load(config), request, wait=wait))
    found, sent_here = sent.outcomes, sent.here
    if wait and not sent_here:
        found = _settled(config, found)
    if as_json:
        rows = [{name: value for name, value in one.items() if name != "scope"} for one in found]
        by = "this process" if sent_here else "daemon"
        print_json({"sent_by": by, "urls": rows, "troubles": list(sent.troubles)})
    else:
        for one in found:
            detail = one["reason"] or one["task_id"] or ("queued" if one["state"] == "pending" else "")
            say(f"{one['state']}  {one['target']}  {one['url']}  {detail}".rstrip())
        for trouble in sent.troubles:
            say(f"problem: {trouble}")
        if not sent_here and not wait:
            say(f"{senders(sent.instances)}; --wait waits for the outcome")
    if sent.interrupted:
        return INTERRUPTED
    if sent.is_misconfigured:
        return ConfigurationError.exit_status
    return 3 if (sent_here or wait) and any(one["state"] in _PUT_OFF for one in found) else 0


class _Sent(NamedTuple):
    """What became of a request, as far as it is known here."""

    outcomes: list[dict[str, Any]]
    interrupted: bool = False
    """Whether a signal ended it."""
    here: bool = False
    """Whether this process sent it."""
    instances: Sequence[str] = ()
    """Which instances run, where it did not."""
    troubles: Sequence[str] = ()
    """What keeps this process from sending, and what to do."""
    is_misconfigured: bool = False
    """Whether an account can never be sent to as it is configured."""


async def _record_and_send(settings: Settings, request: _ManualRequest, *, wait: bool) -> _Sent:
    """Record a request, and send it where nobody else does."""
    from listener.backfill import misconfigured, opened, require_usable, run_until_idle
    from listener.daemon.command_handlers import plain_outcomes, record
    from listener.pipeline.requests import requested_urls
    from listener.plugins import load_targets
    from listener.refresh import Scope

    targets = load_targets(settings)
    wanted = requested_urls(settings, request.urls, Scope[request.scope], target=request.target)
    async with opened(settings, targets) as store:
        if store.owner:
            await require_usable({one.target: targets[one.target] for one in wanted})
        await record(store, wanted, urgent=request.urgent, reason=request.reason)
        if not store.owner:
            return _Sent(await plain_outcomes(store, wanted), instances=await store.running_instances())
        pipeline, interrupted = await run_until_idle(settings, store, targets, follow=wait)
        found = await plain_outcomes(store, wanted, pipeline)
        is_misconfigured = bool(misconfigured(pipeline)) and any(one["state"] == "deferred" for one in found)
        return _Sent(found, interrupted, here=True, troubles=pipeline.troubles, is_misconfigured=is_misconfigured)


def _settled(config: Path | None, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wait until the daemon has settled everything, or has made no progress with the rest for a while."""
    wanted = [{name: one[name] for name in ("target", "url", "scope")} for one in found]
    moved_at, last = time.monotonic(), [""]
    while True:
        found = call("requested", config, wanted=wanted)
        states = [one["state"] for one in found]
        if states != last:
            moved_at, last = time.monotonic(), states
        stalled = time.monotonic() - moved_at > STALLED_SECONDS
        if stalled:
            found = [_deferred(one) if one["state"] == "pending" else one for one in found]
        if all(one["state"] in _SETTLED or (stalled and one["state"] in _PUT_OFF) for one in found):
            return found
        time.sleep(POLL_SECONDS)


def _deferred(one: dict[str, Any]) -> dict[str, Any]:
    """Return the outcome of what the daemon has not sent for a while: it waits for quota, or for the daemon."""
    reason = f"the daemon has not sent it; for the reason: cdn-listener status --url {one['url']}"
    return {**one, "state": "deferred", "reason": reason}
