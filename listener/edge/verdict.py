"""
Whether an answer is what the storage holds: fresh, stale or unknown, each with the reason.

What should be there (the first row that applies):

========================================================================================= =======
404, 410                                                                                  stale
redirects, errors, other answers without the content                                      unknown
a later time, where what is known of the storage may be old                               unknown
the storage's tag: equal, weak, or with the suffix that compression adds; or 304 for it …
… on a copy from before the last change, unless its ``Last-Modified`` is of that change   stale
… otherwise                                                                               fresh
another tag of the storage's own form; strong, of what is not compressed …
… though time and length are those of the storage, on a copy from after the change        unknown
… otherwise                                                                               stale
another length, of what is not compressed                                                 stale
an older ``Last-Modified``                                                                stale
a copy from before the last change, by ``Age``, or by ``Date`` where there is no ``Age``  stale
the storage's ``Last-Modified``, on a copy from the very second of the change             unknown
the storage's ``Last-Modified``                                                           fresh
anything else, also a copy from after the change: the origin may have been late           unknown
========================================================================================= =======

What was deleted:

========================================================================================= =======
404, 410                                                                                  fresh
redirects, errors, other answers without the content                                      unknown
content, where the origin answers 404; what was deleted, by tag, or by time and length    stale
content of a copy from before the deletion                                                stale
content, where the site answers 404 for a name that never was                             stale
content of a copy from after it, or a page: the site may answer every URL                 unknown
content                                                                                   stale
========================================================================================= =======

A cache that was purged softly, or serves stale while it revalidates, gives the old copy once more; whoever probes
looks at a stale URL twice. Pure: time is an argument.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

from listener.change import Fingerprint
from listener.edge.answers import MISSING, SERVED, Answer
from listener.edge.caches import Handling

__all__ = ["FRESH", "STALE", "UNKNOWN", "Expected", "Verdict", "judge", "plain_tag", "worst"]

FRESH: Final = "fresh"
STALE: Final = "stale"
UNKNOWN: Final = "unknown"

SLACK_SECONDS: Final = 2.0
"""Clocks of storage and edge may differ by so much, and ages and dates are whole seconds."""
DATE_SLACK_SECONDS: Final = 60.0
"""The same for ``Date``, which another machine's clock wrote."""
_DIGEST: Final = re.compile(r"[0-9a-f]{32}(-\d+)?")
_SUFFIX: Final = re.compile(r"(?:-{1,2}|;|:|\+)(?:gzip|gz|br|brotli|deflate|zstd|df)\Z")
"""What Apache, Jetty, Caddy and others add to the tag of what they compress."""


class Verdict(NamedTuple):
    """What one URL was found to be."""

    state: str
    """``fresh``, ``stale`` or ``unknown``."""
    reason: str


class Expected(NamedTuple):
    """What a visitor should get."""

    fingerprint: Fingerprint | None = None
    """What the storage holds; of what was deleted, what it held last, where that is known."""
    is_deleted: bool = False
    changed_at: float | None = None
    """The last change is not older than this, in seconds since the epoch."""
    validators_advanced: bool = True
    """False where the change left ``Last-Modified`` as it was: then an equal one proves nothing."""
    may_be_behind: bool = False
    """Whether the storage may have changed since: then another tag or length with a later time is unknown."""


def judge(
    expected: Expected, answer: Answer, *, now: float, origin: Answer | None = None, absent: Answer | None = None
) -> Verdict:
    """
    Return whether what was answered is what the storage holds: the first row of the tables above that applies.

    Args:
        expected: what the storage holds.
        answer: what the edge answered, or the origin.
        now: seconds since the epoch.
        origin: what the origin answers, where it was asked: its tag counts as the storage's if it serves the change.
        absent: of what was deleted, what the edge answers for a name that never was, where it was asked.
    """
    if expected.is_deleted:
        return _judge_deleted(expected, answer, now, origin, absent)
    if expected.fingerprint is None:
        return Verdict(UNKNOWN, "nothing is known of what the storage holds")
    return _judge_held(expected, expected.fingerprint, answer, now, origin)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict on several variants of one URL: one that is stale, else one that is unknown."""
    return min(verdicts, key=lambda one: (STALE, UNKNOWN, FRESH).index(one.state))


def plain_tag(tag: str) -> str:
    """Return a tag without the suffix that compression adds."""
    return _SUFFIX.sub("", tag)


class _Signs(NamedTuple):
    """How an answer compares with the storage; None where it cannot be compared."""

    same_tag: bool | None
    served_bytes: int | None
    held_bytes: int | None
    modified_later: float | None
    """By how many seconds the answer's ``Last-Modified`` is later than the storage's."""
    fetched: tuple[float, float] | None
    """Between which times the copy left the origin, by its ``Age``."""
    is_older: bool
    """Whether the copy is from before the last change."""

    @property
    def same_length(self) -> bool | None:
        """Whether the length is the storage's."""
        return None if None in (self.served_bytes, self.held_bytes) else self.served_bytes == self.held_bytes

    @property
    def is_later(self) -> bool:
        """Whether ``Last-Modified`` is later than the storage's."""
        return self.modified_later is not None and self.modified_later >= SLACK_SECONDS

    @property
    def same_time(self) -> bool:
        """Whether ``Last-Modified`` is the storage's."""
        return self.modified_later is not None and 0 <= self.modified_later < SLACK_SECONDS


def _judge_held(expected: Expected, held: Fingerprint, answer: Answer, now: float, origin: Answer | None) -> Verdict:
    if (verdict := _by_status(held, answer)) is not None:
        return verdict
    signs = _signs(expected, held, answer, now, origin)
    if expected.may_be_behind and signs.is_later and not signs.is_older and signs.same_tag is not True:
        return Verdict(UNKNOWN, "last modified after what is known of the storage")
    for rule in (_by_tag, _by_length, _by_time):
        if (verdict := rule(expected, held, signs)) is not None:
            return _with_variants(verdict, answer)
    if signs.fetched is not None and expected.changed_at is not None:
        return Verdict(UNKNOWN, "fetched after the last change, but nothing shows which version the origin served")
    return Verdict(UNKNOWN, "nothing in the answer can be compared with the storage")


def _by_status(held: Fingerprint, answer: Answer) -> Verdict | None:
    if answer.status in MISSING:
        return Verdict(STALE, f"answers {answer.status}, and the storage has it")
    if answer.status == 416 and answer.length == 0 and held.size_bytes:
        return Verdict(STALE, f"0 bytes, and the storage has {held.size_bytes}")
    if answer.status in SERVED or (answer.status == 304 and answer.matched):
        return None
    return Verdict(UNKNOWN, _without_content(answer))


def _without_content(answer: Answer) -> str:
    where = dict(answer.evidence).get("location")
    return f"answers {answer.status}" + (f", a redirect to {where}, which is not followed" if where else "")


def _signs(expected: Expected, held: Fingerprint, answer: Answer, now: float, origin: Answer | None) -> _Signs:
    later = None
    if held.mtime_ns is not None and answer.modified_at is not None and held.mtime_ns / 1e9 <= now:
        later = answer.modified_at - held.mtime_ns // 1_000_000_000  # servers shorten a time in the future
    fetched = None if answer.age_seconds is None else (now - answer.age_seconds - 1, now - answer.age_seconds)
    return _Signs(
        _same_tag(expected, held, answer, now, origin),
        answer.length,
        held.size_bytes,
        later,
        fetched,
        _is_older(expected, answer, fetched, now),
    )


def _same_tag(expected: Expected, held: Fingerprint, answer: Answer, now: float, origin: Answer | None) -> bool | None:
    is_of_origin = origin is not None and origin.tag is not None and _equal_tags(origin.tag, answer)
    if is_of_origin and origin is not None and judge(expected, origin, now=now).state == FRESH:
        return True
    if not held.etag:
        return None
    if _equal_tags(held.etag, answer):
        return True
    if answer.tag is None or answer.is_weak or answer.is_encoded or answer.status == 304:
        return None
    ours, theirs = _DIGEST.fullmatch(held.etag), _DIGEST.fullmatch(answer.tag)
    return False if ours and theirs and bool(ours[1]) == bool(theirs[1]) else None


def _equal_tags(ours: str, answer: Answer) -> bool:
    """Return whether a tag is that of the answer, or a 304 says that it is."""
    if answer.tag is None:
        return answer.status == 304 and plain_tag(ours) == plain_tag(answer.matched)
    return ours == answer.tag or plain_tag(ours) == plain_tag(answer.tag)


def _is_older(expected: Expected, answer: Answer, fetched: tuple[float, float] | None, now: float) -> bool:
    if expected.changed_at is None or expected.changed_at > now:
        return False  # a time in the future says nothing
    if fetched is not None:
        return fetched[1] < expected.changed_at - SLACK_SECONDS
    if answer.date_at is None or answer.handling is Handling.MISS:
        return False
    return answer.date_at < expected.changed_at - DATE_SLACK_SECONDS


def _by_tag(expected: Expected, held: Fingerprint, signs: _Signs) -> Verdict | None:
    if signs.same_tag is None:
        return None
    if signs.same_tag:
        if signs.is_older and not _is_of_the_change(expected, held, signs):
            return Verdict(STALE, f"the tags are equal, but {_older(expected, signs)}")
        return Verdict(FRESH, "the tags are equal")
    if signs.same_length and signs.same_time and _is_proof(held, signs) and signs.fetched is not None:
        return Verdict(UNKNOWN, "the tags differ, though time and length are those of the storage")
    return Verdict(STALE, "the tags differ")


def _by_length(_expected: Expected, _held: Fingerprint, signs: _Signs) -> Verdict | None:
    if signs.same_length is False:
        return Verdict(STALE, f"{signs.served_bytes} bytes, and the storage has {signs.held_bytes}")
    return None


def _by_time(expected: Expected, held: Fingerprint, signs: _Signs) -> Verdict | None:
    if signs.modified_later is not None and signs.modified_later < 0:
        return Verdict(STALE, f"last modified {-signs.modified_later:.0f} s before the storage's")
    if signs.is_older and not _is_of_the_change(expected, held, signs):
        return Verdict(STALE, _older(expected, signs))
    if not signs.same_time:
        return None
    if not expected.validators_advanced:
        return Verdict(UNKNOWN, "last modified at the same time, which the change left as it was")
    if not _is_proof(held, signs) and not signs.is_older:
        return Verdict(UNKNOWN, "fetched within a second of the change, which Last-Modified cannot show")
    return Verdict(FRESH, "last modified at the same time")


def _is_of_the_change(expected: Expected, held: Fingerprint, signs: _Signs) -> bool:
    """Return whether ``Last-Modified`` names the moment of the last change, which no older copy can."""
    if not signs.same_time or not expected.validators_advanced or held.mtime_ns is None:
        return False
    return expected.changed_at is None or held.mtime_ns / 1e9 >= expected.changed_at - 1


def _is_proof(held: Fingerprint, signs: _Signs) -> bool:
    """
    Return whether an equal ``Last-Modified`` leaves no older version of the same second (RFC 9110, 8.8.2.2).

    A storage that has the time of the change to a part of a second leaves none that was fetched after it.
    """
    if signs.fetched is None:
        return True
    assert held.mtime_ns is not None
    seconds, rest = divmod(held.mtime_ns, 1_000_000_000)
    return signs.fetched[0] >= (held.mtime_ns / 1e9 if rest else seconds + 1)


def _older(expected: Expected, signs: _Signs) -> str:
    assert expected.changed_at is not None
    if signs.fetched is None:
        return "the answer was made before the last change, by its Date"
    return f"fetched {math.ceil(expected.changed_at - signs.fetched[1])} s before the last change"


def _with_variants(verdict: Verdict, answer: Answer) -> Verdict:
    """Add to what is fresh that other variants were not requested."""
    others = [name for name in answer.vary if name != "accept-encoding"]
    if verdict.state != FRESH or not others:
        return verdict
    return Verdict(FRESH, f"{verdict.reason}; other variants were not requested (Vary: {', '.join(others)})")


def _judge_deleted(
    expected: Expected, answer: Answer, now: float, origin: Answer | None, absent: Answer | None
) -> Verdict:
    if answer.status in MISSING:
        return Verdict(FRESH, f"answers {answer.status}, and the storage has nothing")
    if answer.status not in SERVED and not (answer.status == 304 and answer.matched):
        return Verdict(UNKNOWN, _without_content(answer))
    signs = _signs(expected, expected.fingerprint or Fingerprint(), answer, now, None)
    if (reason := _still_there(expected, answer, signs, origin, absent)) is not None:
        return Verdict(STALE, reason)
    if signs.fetched is not None and expected.changed_at is not None:
        return Verdict(UNKNOWN, f"answers {answer.status}, fetched after the deletion: the site may answer every URL")
    if answer.is_page:
        return Verdict(UNKNOWN, f"answers {answer.status} with a page: the site may answer every URL")
    return Verdict(STALE, f"answers {answer.status}, and the storage has nothing")


def _still_there(
    expected: Expected, answer: Answer, signs: _Signs, origin: Answer | None, absent: Answer | None
) -> str | None:
    """Return what shows that a deleted object is still served."""
    if origin is not None and origin.status in MISSING:
        return f"answers {answer.status}; the origin answers {origin.status}"
    if signs.same_tag or (signs.same_time and signs.same_length):
        return "still serves what was deleted"
    if signs.is_older:
        return _older(expected, signs).replace("change", "deletion")
    if absent is not None and absent.status in MISSING:
        return f"answers {answer.status}, and {absent.status} for a name that never was"
    return None
