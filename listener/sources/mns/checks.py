"""Checks of a queue; they change nothing and receive no message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.contracts import Check, CheckState
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.setup import rules_command
from listener.sources.mns.transport import NOTABLE_SKEW_SECONDS, MnsTransport
from listener.sources.mns.wire import Attributes
from listener.sources.queue.transport import QueueError

__all__ = ["run_checks"]

NO_HANDLE: Final = "cdn-listener-check-no-such-handle"
"""Deletes and releases nothing; whether it is rejected for the handle or the permission is the answer."""
SHORTEST_VISIBILITY_SECONDS: Final = 10
SHORTEST_RETENTION_SECONDS: Final = 86_400
SMALLEST_MESSAGE_BYTES: Final = 65_536
"""A deletion of a thousand objects is one event list; a queue that accepts less drops it."""
_STOPPING: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoKey", "QueueNotExist"})


async def run_checks(name: str, settings: MnsSettings, transport: MnsTransport) -> Sequence[Check]:
    """Return the results in order of dependence; without a key only the first."""
    found = [await _try(f"{name}: credentials", lambda: _credentials(settings, transport))]
    if found[0].state is CheckState.FAILED:
        return found
    try:
        attributes = await transport.attributes()
    except QueueError as error:
        if not error.code or error.code == "QueueNotExist":
            return [*found, Check(f"{name}: queue", CheckState.FAILED, str(error), error.hint)]
        found.append(Check(f"{name}: queue", CheckState.WARNING, f"cannot be read: {error}", error.hint))
    else:
        found += _attributes(name, attributes)
    found.append(_clock(name, transport.clock_skew_seconds))
    found.append(await _try(f"{name}: deletion", lambda: _permitted(transport.delete([NO_HANDLE]))))
    found.append(await _try(f"{name}: release", lambda: _permitted(transport.hide([NO_HANDLE], seconds=1))))
    return [*found, _unchecked(name, settings)]


async def _try(subject: str, check: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(subject, CheckState.OK, await check())
    except QueueError as error:
        return Check(subject, CheckState.FAILED, str(error), error.hint)


async def _credentials(settings: MnsSettings, transport: MnsTransport) -> str:
    key = await transport.key()
    return f"access key {key.access_key_id[:4]}… from {settings.credentials}"


async def _permitted(call: Awaitable[object]) -> str:
    """Return normally where only the handle was rejected: the service checks it after the permission."""
    try:
        await call
    except QueueError as error:
        if not error.code or error.code in _STOPPING:
            raise
    return "permitted"


def _attributes(name: str, queue: Attributes) -> list[Check]:
    waiting = f"{queue.active_messages} messages wait, {queue.inactive_messages} are in flight"
    found = [Check(f"{name}: queue", CheckState.OK, f"is reachable; {waiting}")]
    retention = "messages not read within it are lost: set the retention to four days or more"
    size = "set the maximum message size to 65536 bytes: larger events are dropped"
    visibility = "set the visibility timeout to 30 s"
    rows: tuple[tuple[str, int | None, int, str, str], ...] = (
        ("visibility", queue.visibility_seconds, SHORTEST_VISIBILITY_SECONDS, "s", visibility),
        ("retention", queue.retention_seconds, SHORTEST_RETENTION_SECONDS, "s", retention),
        ("message size", queue.max_message_bytes, SMALLEST_MESSAGE_BYTES, "bytes", size),
    )
    for subject, value, least, unit, hint in rows:
        if value is not None:
            state = CheckState.OK if value >= least else CheckState.WARNING
            found.append(Check(f"{name}: {subject}", state, f"{value} {unit}", hint))
    if queue.delay_seconds:
        what = f"the queue delays each message by {queue.delay_seconds} s"
        found.append(Check(f"{name}: delay", CheckState.WARNING, what, "set its delay to 0"))
    return found


def _clock(name: str, skew: float | None) -> Check:
    subject = f"{name}: clock"
    if skew is None:
        return Check(subject, CheckState.WARNING, "no reply had the service's time")
    direction = "ahead of" if skew >= 0 else "behind"
    message = f"{abs(skew):.0f} s {direction} the service's (at most {CLOCK_TOLERANCE_SECONDS} s)"
    state = CheckState.OK if abs(skew) <= NOTABLE_SKEW_SECONDS else CheckState.WARNING
    state = CheckState.FAILED if abs(skew) > CLOCK_TOLERANCE_SECONDS else state
    return Check(subject, state, message, "synchronise the clock of this machine (NTP)")


def _unchecked(name: str, settings: MnsSettings) -> Check:
    what = "not checked: receiving (it would hide messages from their reader), and the rule that fills the queue"
    hint = f"check that a rule names each bucket, creations and removals: {rules_command(settings)}"
    return Check(f"{name}: event rule", CheckState.WARNING, what, hint)
