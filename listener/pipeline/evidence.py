"""
Which request made the tasks that a CDN lists: evidence about one host of one request; pure.

A CDN's list has a task's id, URL and time of creation, but not which request made it. Requests of the
same second and domain share ids. A request is accepted or refused as a whole. So:

1. Each attempt whose task id is known owns one listed task of its URL.
2. The remaining tasks may be the request's own only where they were created together, in its time, and
   hold every one of its URLs.
3. They are certainly its own where one URL has more of them than there are other attempts, with an
   outcome that is unknown or still awaited, that may have made one (its *rivals*).
4. A task that was credited to an attempt by the list alone (a *guess*) may be another's all the same. A request
   that misses only such tasks may have been accepted: of each URL, the tasks that are left are credited to the
   attempts that were sent first, so that no change counts as refreshed by a request older than itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from listener.refresh import Task
from listener.store.attempts import Claim

__all__ = ["CLOCK_MARGIN_SECONDS", "LATEST_SECONDS", "Evidence", "weigh"]

CLOCK_MARGIN_SECONDS = 5.0
"""How far the CDN's clock may be from ours when a task is recognized by its time of creation."""
LATEST_SECONDS = 120.0
"""A CDN that takes a request up so much later than it was sent has closed the connection long before."""
TOGETHER_SECONDS = 1.5
"""Tasks of one request were created within this time: the list has whole seconds."""


class Evidence(NamedTuple):
    """What the task list shows of a request's URLs of one host."""

    task_ids: tuple[str, ...] = ()
    """The tasks that hold all of the URLs and are no other attempt's for sure; empty where there are none."""
    certain: bool = False
    """Whether no other attempt can have made all of them."""
    rivals: Sequence[Claim] = ()
    """The attempts with an unknown outcome that may have made some of them."""
    unlisted: bool = False
    """Whether one of the URLs has no task at all from the time of the request on."""
    left: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """URL → ids of the tasks that are left for it; empty where the request was surely not accepted."""
    elders: Sequence[Claim] = ()
    """The attempts without a known task id that were sent before it and may have made one of these."""


def weigh(
    urls: Collection[str], tasks: Sequence[Task], claims: Sequence[Claim], *, sent_at: float, latest_seconds: float
) -> Evidence:
    """
    Weigh the listed tasks for one request.

    Args:
        urls: the request's URLs of one host.
        tasks: every listed task of these URLs from ``sent_at`` on, spelled as the attempts spell them.
        claims: the other attempts at these URLs that were, or may have been, sent.
        sent_at: when the request was written, in seconds since the epoch.
        latest_seconds: how long after it was sent a request may still be accepted.
    """
    by_url = {url: [task for task in tasks if task.url == url] for url in urls}
    within = {
        url: [task for task in listed if _in_time(_created(task, sent_at), sent_at, latest_seconds)]
        for url, listed in by_url.items()
    }
    unlisted = not all(within.values())
    free = _free(by_url, within, claims)
    open_to_doubt = _free(by_url, within, [claim for claim in claims if not claim.guessed])
    left = _left(free, open_to_doubt, sent_at)
    elders = [
        claim
        for claim in claims
        if claim.url in left and not claim.task_ids and sent_at - latest_seconds <= claim.sent_at < sent_at
    ]
    best = Evidence(unlisted=unlisted, left=left, elders=elders)
    for moment in sorted({_created(task, sent_at) for listed in free.values() for task in listed}):
        found = _at(moment, free, claims, sent_at, latest_seconds)
        if found.certain:
            return found
        if found.task_ids and not best.task_ids:
            best = found._replace(left=left, elders=elders)
    return best


def _free(
    by_url: Mapping[str, Sequence[Task]], within: Mapping[str, Sequence[Task]], claims: Sequence[Claim]
) -> dict[str, list[Task]]:
    """Return, by URL, the tasks in time that no attempt with a known task id owns."""
    return {
        url: [task for task in listed if any(task is one for one in _unowned(by_url[url], claims))]
        for url, listed in within.items()
    }


def _left(
    free: Mapping[str, Sequence[Task]], open_to_doubt: Mapping[str, Sequence[Task]], sent_at: float
) -> dict[str, tuple[str, ...]]:
    """Return, by URL, the ids of the free tasks of the first moment at which the request may have been accepted."""
    for moment in sorted({_created(task, sent_at) for listed in open_to_doubt.values() for task in listed}):
        if all(_together(open_to_doubt, moment, sent_at).values()):
            left = _together(free, moment, sent_at)
            if any(left.values()):
                return {url: tuple(task.task_id for task in listed) for url, listed in left.items() if listed}
    return {}


def _together(by_url: Mapping[str, Sequence[Task]], moment: float, sent_at: float) -> dict[str, list[Task]]:
    """Return, by URL, the tasks that were created at this moment."""
    return {
        url: [task for task in listed if abs(_created(task, sent_at) - moment) <= TOGETHER_SECONDS]
        for url, listed in by_url.items()
    }


def _at(
    moment: float, free: Mapping[str, Sequence[Task]], claims: Sequence[Claim], sent_at: float, latest_seconds: float
) -> Evidence:
    """Return what the tasks that were created at this moment show."""
    together = _together(free, moment, sent_at)
    if not all(together.values()):
        return Evidence()
    rivals = [
        claim
        for claim in claims
        if not claim.task_ids and _in_time(moment, claim.sent_at, latest_seconds + TOGETHER_SECONDS)
    ]
    rivals_at = {url: sum(rival.url == url for rival in rivals) for url in together}
    return Evidence(
        task_ids=tuple(dict.fromkeys(task.task_id for listed in together.values() for task in listed)),
        certain=any(len(listed) > rivals_at[url] for url, listed in together.items()),
        rivals=rivals,
    )


def _unowned(listed: Sequence[Task], claims: Sequence[Claim]) -> list[Task]:
    """Return the tasks of one URL that are left once every attempt with a known task id took one of its own."""
    left = list(listed)
    url = listed[0].url if listed else ""
    owners = [claim for claim in claims if claim.task_ids and claim.url == url]
    for owner in sorted(owners, key=lambda one: len(one.task_ids)):
        own = next((task for task in left if task.task_id in owner.task_ids), None)
        if own is not None:
            left.remove(own)
    return left


def _in_time(moment: float, sent_at: float, latest_seconds: float) -> bool:
    return sent_at - CLOCK_MARGIN_SECONDS <= moment <= sent_at + latest_seconds + CLOCK_MARGIN_SECONDS


def _created(task: Task, otherwise: float) -> float:
    return otherwise if task.created_at is None else task.created_at
