"""The words that every stage shares: which attempt covers which need, the quota day, keys and errors."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener import errors
from listener.allowances import ALIBABA_DAY
from listener.change import key_to_bytes, key_to_text
from listener.clock import SystemClock
from listener.refresh import Attempt, Need, RefreshKind, Scope, covers, directory_of, strip_query

FILE, FOLDER, IGNORE, FETCH = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS, RefreshKind.PREFETCH
BASE = "https://h/"


def attempt(kind: RefreshKind, path: str, *, force: bool = True, watermark: int = 10, target: str = "cdn") -> Attempt:
    """Return an attempt at a path of the one host."""
    return Attempt(id=1, target=target, kind=kind, url=BASE + path, force=force, watermark=watermark)


def need(scope: Scope, path: str, *, sequence: int = 10, needs_force: bool = False, unfinished: bool = False) -> Need:
    """Return a need of a path of the one host."""
    return Need("cdn", BASE + path, scope, sequence, 0.0, open=unfinished, needs_force=needs_force)


@pytest.mark.parametrize(
    ("kind", "path", "scope", "needed", "covered"),
    [
        (FILE, "a", Scope.EXACT, "a", True),
        (FILE, "a", Scope.EXACT, "a?q", False),
        (FILE, "a", Scope.EXACT, "ab", False),
        (FILE, "a", Scope.ALL_PARAMS, "a", False),
        (FILE, "d/", Scope.SUBTREE, "d/", False),
        (FILE, "a", Scope.PREFETCH, "a", False),
        (IGNORE, "a", Scope.EXACT, "a", True),
        (IGNORE, "a", Scope.EXACT, "a?q", True),
        (IGNORE, "a", Scope.ALL_PARAMS, "a", True),
        (IGNORE, "a", Scope.EXACT, "b", False),
        (IGNORE, "d/", Scope.SUBTREE, "d/", False),
        (IGNORE, "a", Scope.PREFETCH, "a", False),
        (FOLDER, "d/", Scope.EXACT, "d/e/a?q", True),
        (FOLDER, "d/", Scope.EXACT, "d/", True),
        (FOLDER, "d/", Scope.EXACT, "da", False),
        (FOLDER, "d/", Scope.ALL_PARAMS, "d/a", True),
        (FOLDER, "d/", Scope.SUBTREE, "d/", True),
        (FOLDER, "d/", Scope.SUBTREE, "d/e/", True),
        (FOLDER, "d/e/", Scope.SUBTREE, "d/", False),
        (FOLDER, "d/", Scope.PREFETCH, "d/a", False),
        (FETCH, "a", Scope.PREFETCH, "a", True),
        (FETCH, "a", Scope.PREFETCH, "b", False),
        (FETCH, "a", Scope.EXACT, "a", False),
    ],
)
def test_what_an_attempt_covers(kind: RefreshKind, path: str, scope: Scope, needed: str, covered: bool) -> None:
    """Promise 3: one table says which attempt ends which need, and nothing else ends one."""
    assert covers(attempt(kind, path), need(scope, needed)) is covered


@given(
    kind=st.sampled_from([FILE, IGNORE, FOLDER]),
    watermark=st.integers(0, 5),
    sequence=st.integers(0, 5),
    unfinished=st.booleans(),
    needs_force=st.booleans(),
    force=st.booleans(),
    target=st.sampled_from(["cdn", "other"]),
)
def test_nothing_newer_unfinished_or_unhealed_is_covered(
    kind: RefreshKind, watermark: int, sequence: int, unfinished: bool, needs_force: bool, force: bool, target: str
) -> None:
    """Promise 3: a later change, an unfinished write, another CDN, or what only force can heal stays needed."""
    path = "d/" if kind is FOLDER else "d/a"
    made = attempt(kind, path, force=force, watermark=watermark, target=target)
    wanted = need(Scope.EXACT, "d/a", sequence=sequence, needs_force=needs_force, unfinished=unfinished)
    heals = not needs_force or force
    assert covers(made, wanted) is (target == "cdn" and sequence <= watermark and not unfinished and heals)


def test_parts_of_a_url() -> None:
    """The query goes, and a directory ends at the last slash of the path, not of the query."""
    assert strip_query("https://h/a?b=/c?d") == "https://h/a"
    assert directory_of("https://h/d/a?b=/c") == "https://h/d/"
    assert directory_of("https://h/d/") == "https://h/d/"


@given(st.integers(1_600_000_000, 2_200_000_000))
def test_the_quota_day_is_the_day_in_china(now: int) -> None:
    """Quotas count from 00:00:00 to 24:00:00 in UTC+8, whatever the zone of the machine."""
    zone = dt.timezone(dt.timedelta(hours=8))
    start = dt.datetime.combine(dt.datetime.fromtimestamp(now, zone).date(), dt.time(), zone)
    assert ALIBABA_DAY.start(now + 0.5) == start.timestamp()
    assert ALIBABA_DAY.end(now + 0.5) == (start + dt.timedelta(days=1)).timestamp()


def test_the_system_clock_returns_seconds_since_the_epoch() -> None:
    """It is the machine's time of day, not a time since start."""
    assert abs(SystemClock().now() - dt.datetime.now(dt.UTC).timestamp()) < 5


@given(st.binary())
def test_a_key_keeps_its_bytes(raw: bytes) -> None:
    """Any bytes of a name survive being text."""
    assert key_to_bytes(key_to_text(raw)) == raw


FAMILY = [one for name in errors.__all__ if isinstance(one := getattr(errors, name), type)]
NEEDED = {errors.Throttled: {"retry_after_seconds": 1.0}, errors.WindowFull: {"retry_after_seconds": 1.0}}


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_message_and_an_exit_status(kind: type[errors.ListenerError]) -> None:
    """Raised bare, an error says what its class says; a wrong configuration exits with 2, the others with 1."""
    error = kind(**NEEDED.get(kind, {}))
    assert str(error) == (kind.__doc__ or "").strip().partition("\n")[0]
    assert error.hint == ""
    assert error.exit_status == (2 if kind is errors.ConfigurationError else 1)


def test_errors_of_a_cdn_keep_code_and_request_id() -> None:
    """Code, request id, the domain that it named and the time that it asked for are kept for the operator."""
    rejected = errors.BatchRejected("bad", domain="h", code="InvalidDomain.NotFound", request_id="r")
    assert (str(rejected), rejected.domain, rejected.code, rejected.request_id) == (
        "bad",
        "h",
        "InvalidDomain.NotFound",
        "r",
    )
    throttled = errors.Throttled(retry_after_seconds=3, code="Throttling", request_id="r")
    assert (throttled.retry_after_seconds, throttled.code) == (3, "Throttling")
    assert errors.NotSent("x", hint="do y").hint == "do y"
