"""What ``cdn-listener check`` probes of a queue, without changing anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.contracts import Check, CheckState
from listener.sources.mns import setup
from listener.sources.mns.client import QueueClient
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.trouble import MnsTrouble
from listener.sources.mns.wire import Attributes

__all__ = ["probe"]

NO_HANDLE: Final = "cdn-listener-check-no-such-handle"
"""Deletes and releases nothing: what is answered tells whether it would have been allowed to."""
NOTABLE_SKEW_SECONDS: Final = 60.0
SHORTEST_VISIBILITY_SECONDS: Final = 10
SHORTEST_RETENTION_SECONDS: Final = 86_400
SMALLEST_MESSAGE_BYTES: Final = 65_536
"""A deletion of a thousand objects is one event list; a queue that takes less drops it."""
_STOPPING: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoKey", "QueueNotExist"})


async def probe(name: str, settings: MnsSettings, client: QueueClient) -> Sequence[Check]:
    """Return the probes in the order in which they stand on one another; without a key only the first."""
    key = await _tried(f"{name}: credentials", lambda: _credentials(settings, client))
    if key.state is CheckState.FAILED:
        return [key]
    found = [key]
    try:
        attributes = await client.attributes()
    except MnsTrouble as trouble:
        if not trouble.code or trouble.code == "QueueNotExist":
            return [*found, Check(f"{name}: queue", CheckState.FAILED, str(trouble), trouble.hint)]
        found.append(Check(f"{name}: queue", CheckState.WARNING, f"not told: {trouble}", trouble.hint))
    else:
        found += _attributes(name, attributes)
    found.append(_clock(name, client.clock_skew_seconds))
    found.append(await _tried(f"{name}: deletion", lambda: _deletion(client)))
    found.append(await _tried(f"{name}: release", lambda: _release(client)))
    return [*found, _unseen(name, settings)]


async def _tried(subject: str, ask: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(subject, CheckState.OK, await ask())
    except MnsTrouble as trouble:
        return Check(subject, CheckState.FAILED, str(trouble), trouble.hint)


async def _credentials(settings: MnsSettings, client: QueueClient) -> str:
    key = await client.key()
    return f"access key {key.access_key_id[:4]}… from {settings.credentials}"


async def _deletion(client: QueueClient) -> str:
    try:
        await client.delete([NO_HANDLE])
    except MnsTrouble as trouble:
        _raise_unless_allowed(trouble)
    return "permitted"


async def _release(client: QueueClient) -> str:
    try:
        await client.release(NO_HANDLE)
    except MnsTrouble as trouble:
        _raise_unless_allowed(trouble)
    return "permitted"


def _raise_unless_allowed(trouble: MnsTrouble) -> None:
    """Take a refusal of the handle for a permission: it was looked at only after that."""
    if not trouble.code or trouble.code in _STOPPING:
        raise trouble


def _attributes(name: str, told: Attributes) -> list[Check]:
    waiting = f"{told.active_messages} messages wait, {told.inactive_messages} are being read"
    found = [Check(f"{name}: queue", CheckState.OK, f"can be reached; {waiting}")]
    retention = "events that were not read by then are lost: set its retention to four days or more"
    small = "set its maximum message size to 65536 bytes: larger events would be dropped"
    visible = "set its visibility timeout to 30 s"
    rows: tuple[tuple[str, int | None, int, str, str], ...] = (
        ("visibility", told.visibility_seconds, SHORTEST_VISIBILITY_SECONDS, "s", visible),
        ("retention", told.retention_seconds, SHORTEST_RETENTION_SECONDS, "s", retention),
        ("message size", told.max_message_bytes, SMALLEST_MESSAGE_BYTES, "bytes", small),
    )
    for subject, value, least, unit, hint in rows:
        if value is not None:
            state = CheckState.OK if value >= least else CheckState.WARNING
            found.append(Check(f"{name}: {subject}", state, f"{value} {unit}", hint))
    if told.delay_seconds:
        what = f"the queue holds each message back for {told.delay_seconds} s"
        found.append(Check(f"{name}: delay", CheckState.WARNING, what, "set its delay to 0"))
    return found


def _clock(name: str, skew: float | None) -> Check:
    subject = f"{name}: clock"
    if skew is None:
        return Check(subject, CheckState.WARNING, "no answer told the service's time")
    direction = "ahead of" if skew >= 0 else "behind"
    message = f"{abs(skew):.0f} s {direction} the service's (at most {CLOCK_TOLERANCE_SECONDS} s)"
    state = CheckState.OK if abs(skew) <= NOTABLE_SKEW_SECONDS else CheckState.WARNING
    state = CheckState.FAILED if abs(skew) > CLOCK_TOLERANCE_SECONDS else state
    return Check(subject, state, message, "synchronise the clock of this machine (NTP)")


def _unseen(name: str, settings: MnsSettings) -> Check:
    """Say what stays unknown, and how to find out."""
    what = "not looked at: receiving (it would hide messages from their reader), and the rule that fills the queue"
    hint = f"look that a rule names each bucket, creations and removals: {setup.rules_command(settings)}"
    return Check(f"{name}: event rule", CheckState.WARNING, what, hint)
