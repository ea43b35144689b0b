"""``cdn-listener status``, ``quota`` and ``tasks``: what is stale, since when and why; what was sent; what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from listener.cli.common import print_json, print_table, reason_for, say
from listener.cli.daemon_client import call
from listener.cli.options import ConfigOption, JsonOption, Option, PrefixOption, VerboseOption, WideOption
from listener.text import printable, span

__all__ = ["quota", "status", "tasks"]

_QUOTA = ("limit", "spent", "others", "held", "left", "reserve")
_ORDER = ("kind", "target", "prefix", "until", "reason", "at")
STALE_SHOWN = 10
_REMEDIES = {
    "parked": "cdn-listener dead-letters --retry URL, or --discard URL",
    "unconfirmed": "cdn-listener refresh URL, or give the vendor the task id of cdn-listener tasks",
}
"""What a person does about a URL that waits for one, by its state."""
ALL_ROWS = 1_000_000

_ACTIONS = ("at", "action", "subject", "count", "reason")
_COLUMNS = ("id", "state", "kind", "url", "task_id", "looks", "tries", "created_at", "reason", "error")


def status(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    url: Annotated[str | None, Option("--url", help="Show everything known about this URL.")] = None,
    prefix: PrefixOption = None,
    everything: Annotated[bool, Option("--all", help="List everything that is stale, not only the oldest.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what is wrong and what is stale, since when, why, and what happens next. Works without a daemon, too."""
    found = call("status", config, url=url, prefix=prefix, limit=ALL_ROWS if everything else None)
    if as_json:
        print_json(found)
    elif url is not None:
        _show_verdict(found)
        _show_url(found["url"], found["at"], verbose=verbose)
    else:
        _show(found, verbose=verbose, shown=ALL_ROWS if everything else STALE_SHOWN, is_part=prefix is not None)


def _show(found: Mapping[str, Any], *, verbose: bool, shown: int, is_part: bool) -> None:
    _show_verdict(found)
    say(f"daemon: {_running(found)}")
    if not found["store"]["exists"]:
        say(f"store: there is none yet at {found['store']['url']}")
    _show_instances(found["instances"])
    say(_counts(found))
    _show_stale(found, shown, verbose=verbose)
    if is_part:
        return
    say("")
    _show_quota(found, _QUOTA)
    _show_outlook(found)
    say("")
    _show_sources(found["sources"])
    for name, source in found["sources"].items():
        if ignored := int(source["figures"].get("ignored_paths", 0)):
            say(f"source {name}: {ignored} paths ignored; list them: cdn-listener check --ignored")
    if found["orders"]:
        say("")
        print_table(_ORDER, [[order[column] for column in _ORDER] for order in found["orders"]])


def _show_verdict(found: Mapping[str, Any]) -> None:
    """Print how fresh everything is, then what is wrong, the most fundamental first."""
    say(found["verdict"])
    for one in found["problems"]:
        since = f", for {_age(one['since'], found['at'])} (since {one['since']})" if one["since"] else ""
        say(printable(f"problem: {one['what']}{since}"))
        say(printable(f"  remedy: {one['remedy']}"))


def _counts(found: Mapping[str, Any]) -> str:
    """Return how much waits for whom; each stale URL is counted once, and what is due is part of what is pending."""
    waits = found["waits_for"]
    us = f"{found['pending']} pending, {found['deferred']} of them due; {found['failed']} failed"
    person = f"{found['parked']} rejected, {found['unconfirmed']} unconfirmed"
    letters = f"; dead letters: {found['dead_letters']}" if found["dead_letters"] else ""
    return (
        f"waiting for us: {waits['us']['needs']} ({us})\n"
        f"waiting for the CDN: {waits['cdn']['needs']} (in flight)\n"
        f"waiting for a person: {waits['person']['needs']} ({person}{letters})"
    )


def _show_sources(sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how each source is; of a fleet a line for each instance that reports it."""
    columns = ("state", "last_event_at", "lost_events", "rescans", "detail")
    titles = ("state", "last event", "lost", "rescans", "detail")
    rows = [(name, instance, row) for name, one in sources.items() for instance, row in _by_instance(one)]
    if any(instance for _, instance, _ in rows):
        lines = [(name, instance, *(row[column] for column in columns)) for name, instance, row in rows]
        print_table(("source", "instance", *titles), lines)
    else:
        print_table(("source", *titles), [(name, *(row[column] for column in columns)) for name, _, row in rows])


def _by_instance(source: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return list(source["instances"].items()) or [("", source)]


def _show_instances(instances: Sequence[Mapping[str, Any]]) -> None:
    """Print who shares the store, and which accounts each leads."""
    for one in instances:
        state = "runs" if one["alive"] else "dead"
        leads = f"leads {', '.join(one['leads'])}" if one["leads"] else "leads nothing"
        heartbeat = f"heartbeat {one['heartbeat_seconds']:.1f} s ago"
        say(printable(f"instance {one['name']}: {state}, {leads}; {heartbeat}; {one['version']}, since {one['since']}"))


def _show_stale(found: Mapping[str, Any], shown: int, *, verbose: bool) -> None:
    stale = found["stale"]
    if stale:
        say("stale, oldest first:")
    known = [one["what"] for one in found["problems"]]
    for one in stale[:shown]:
        is_known = bool(one["reason"]) and any(one["reason"] in what for what in known)
        row = {**one, "reason": "for the problem above"} if is_known else one
        say(printable(f"  {one['url']}"))
        say(printable(f"    {_stale_words(row, found['at'], verbose=verbose)}"))
    if len(stale) > shown:
        say("  more: cdn-listener status --all, or --prefix P")


def _stale_words(one: Mapping[str, Any], at: str, *, verbose: bool) -> str:
    scope = "" if one["scope"] == "exact" else f" ({one['scope']})"
    state = "rejected" if one["state"] == "parked" else one["state"].replace("_", " ")
    age = f" for {_age(one['since'], at)}, since {one['since']}" if one["since"] else ""
    parts = [f"{state}{scope}{age}"]
    if one["reason"]:
        parts.append(reason_for(one["reason"], verbose=verbose).rstrip("."))
    if one["next_at"]:
        parts.append(f"next step at {one['next_at']}")
    if remedy := _REMEDIES.get(one["state"]):
        parts.append(f"remedy: {remedy}")
    return "; ".join(parts)


def _age(since: str, at: str) -> str:
    """Return how long ago a time was at another one, both ISO 8601."""
    from datetime import datetime

    return span(max(0.0, (datetime.fromisoformat(at) - datetime.fromisoformat(since)).total_seconds()))


def _running(found: Mapping[str, Any]) -> str:
    if found["running"] is None:
        return f"unknown: {found['running_reason']}"
    if not found["running"]:
        return "not running"
    return "running" if found["pid"] is None else f"running, process {found['pid']}"


def _show_outlook(found: Mapping[str, Any]) -> None:
    """Print which quota runs out before its reset, and which backlog does not drain."""
    for account, kinds in found["forecasts"].items():
        for kind, ahead in kinds.items():
            if ahead["lasts_until"] is not None:
                used_up = ahead["lasts_until"] <= found["at"]
                until = "is used up until its reset" if used_up else f"lasts until {ahead['lasts_until']} at this rate"
                say(
                    f"account {account}: the {kind} quota {until}; {ahead['per_hour']:.1f} an hour since the last reset"
                )
    for account, waits in found["backlog"].items():
        if waits["offer"] or not waits["drains"]:
            _show_backlog(account, waits)


def _show_backlog(account: str, waits: Mapping[str, Any]) -> None:
    drains = f"would take {waits['days']:.1f} days as URLs" if waits["drains"] else "never drain as URLs"
    say(f"account {account}: {waits['needs']} due {drains}, with a whole quota less the reserve")
    for offer in waits["offer"]:
        evicts = offer["collateral"] if offer["collateral_known"] else "an unknown number of"
        say(f"  cdn-listener refresh --directory {offer['url']}")
        say(f"    would cover {offer['covers']} and evict {evicts} unchanged objects")


def _show_url(found: Mapping[str, Any], at: str, *, verbose: bool) -> None:
    if found["problem"] and not found["stale"]:
        say(f"\n{found['url']}: {found['problem']}")
    else:
        say(f"\n{found['url']}: {'stale' if found['stale'] else 'nothing is known to be stale'}")
        _show_service(found, at)
    for need in found["needs"]:
        below = "" if need["url"] == found["url"] else f" with {need['url']}"
        say(printable(f"  {need['target']}: {_stale_words(need, at, verbose=verbose)}{below}"))
    for attempt in found["attempts"]:
        say(
            f"  attempt {attempt['id']}: {attempt['kind']} {attempt['state']} {attempt['task_id'] or ''}"
            f" {reason_for(attempt['reason'], verbose=verbose)} {attempt['error']}".rstrip()
        )
    if found["suppressed"]:
        changes = found["suppressed"]
        count = f"{changes['times']} change{'s' if changes['times'] > 1 else ''}"
        say(f"  {count} made no refresh, the last at {changes['at']}: {changes['reason']}")


def _show_service(found: Mapping[str, Any], at: str) -> None:
    """Print who serves a URL, when it changed and was refreshed last, and what happens next."""
    if found["problem"]:
        say(printable(f"  site: {found['problem']}"))
    else:
        say(printable(f"  site: {found['site']}, source {found['source']}, target {', '.join(found['targets'])}"))
    changed, last = found["last_change"], found["last_refresh"]
    say(f"  last change: {f'{changed}, {_age(changed, at)} ago' if changed else 'none in the history'}")
    if last:
        done, what = last["finished_at"], "" if last["url"] == found["url"] else f" of {last['url']}"
        say(printable(f"  last refresh: {done}, {_age(done, at)} ago: {last['kind']}{what} by target {last['target']}"))
    else:
        say("  last refresh: none in the history")
    next_at = f", at {found['next_at']}" if found["next_at"] else ""
    say(printable(f"  next step: {found['next_step']}{next_at}"))


def quota(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Show what is left of each quota: our ledger and what the CDN reports. Exit status 1 if it cannot be reached."""
    result = call("quota", config)
    if as_json:
        print_json(result)
    else:
        _show_quota(result, (*_QUOTA, "live limit", "live left"))
    errors = result["errors"]
    for target, error in errors.items():
        say(f"error: {target}: {error}", error=True)
    return 1 if errors else 0


def _show_quota(found: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Print a line for each allowance, and one for what each target does without one."""
    rows = [(target, name, row) for target, each in found["quota"].items() for name, row in each.items()]
    titles = ["target", "allowance", *columns, "resets at"]
    if any("dollars" in row for *_, row in rows):
        titles.append("dollars")
    lines = [[target, name, *(_cell(row, title) for title in titles[2:])] for target, name, row in rows]
    for target, kinds in found["unlimited"].items():
        if kinds:
            lines.append([target, ", ".join(kinds), *("unlimited" if one == "limit" else "" for one in titles[2:])])
    print_table(titles, lines)
    for target, one in found.get("targets", {}).items():
        if not one["confirms"]:
            say(f"{target}: confirms nothing, so a refresh counts as done once it is accepted")


def _cell(row: Mapping[str, Any], title: str) -> object:
    if title == "resets at":
        return row["resets_at"] or "never"
    if title == "dollars":
        return f"{row['dollars']['spent']:.2f} of {row['dollars']['limit']:.2f}" if "dollars" in row else ""
    if title.startswith("live "):
        return (row["live"] or {}).get({"live limit": "limit", "live left": "remaining"}[title], "")
    return row[title]


def tasks(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, Option("--limit", least=1, most=100_000, help="At most this many, newest first.")] = 50,
    url: Annotated[str | None, Option("--url", help="Only those of exactly this URL.")] = None,
    manual: Annotated[
        bool,
        Option("--manual", help="List what operators held, paused, approved or cancelled instead."),
    ] = False,
    old_manual: Annotated[bool, Option("--by-hand", "", hidden=True)] = False,
    verbose: VerboseOption = False,
    wide: WideOption = False,
) -> None:
    """List requests to the CDN, newest first, one a line: why each was sent, and its outcome."""
    manual = manual or old_manual
    columns, none = (_ACTIONS, "no manual actions yet") if manual else (_COLUMNS, "nothing was sent to any CDN yet")
    found = call("actions", config, limit=limit) if manual else call("attempts", config, limit=limit, url=url)
    if as_json:
        print_json(found)
    elif found:
        rows = [{**row, "reason": reason_for(row["reason"], verbose=verbose)} for row in found]
        print_table(columns, [[row[column] for column in columns] for row in rows], one_line=True, wide=wide)
    else:
        say(none)
