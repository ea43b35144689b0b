"""What is recorded together, and what that came to: a large batch is recorded in slices, whose results are joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from listener.change import Change, ChangeKind
from listener.refresh import Priority

__all__ = ["Batch", "Recorded", "joined", "slices"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes to be recorded together."""

    changes: Sequence[Change]
    scan_sequence: int | None = None
    seed: bool = False
    priority: Priority = Priority.LIVE
    message_ids: Sequence[str] = ()
    """Ids of the messages of which these changes are the last to be recorded."""


@dataclass(slots=True)
class Recorded:
    """What recording a batch came to."""

    sequence: int
    needs: int = 0
    outdated: int = 0
    """Findings of a scan that the index knew better."""
    suppressed: int = 0
    """Changes without need: received before, or the same content once more where that is to be ignored."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Keys that can never be a URL, each with the reason."""


def slices(batch: Batch, most: int, *, subtree: int) -> Iterator[Batch]:
    """
    Cut a batch into such of at most so many rows; a subtree may become ``subtree`` of them.

    An empty one stays; one that is cut loses its message ids.
    """
    changes = batch.changes
    if ChangeKind.SUBTREE_DELETED not in {change.kind for change in changes}:
        starts = list(range(0, len(changes), most)) or [0]
    else:
        starts, rows = [0], 0
        for at, change in enumerate(changes):
            weight = subtree if change.kind is ChangeKind.SUBTREE_DELETED else 1
            if rows and rows + weight > most:
                starts.append(at)
                rows = 0
            rows += weight
    if len(starts) == 1:
        yield batch
        return
    for start, end in pairwise([*starts, len(changes)]):
        yield replace(batch, changes=changes[start:end], message_ids=())


def joined(parts: Sequence[Recorded]) -> Recorded:
    """Return what the slices of one batch came to."""
    whole = parts[-1]
    for part in parts[:-1]:
        whole.needs += part.needs
        whole.outdated += part.outdated
        whole.suppressed += part.suppressed
    whole.rejected = [one for part in parts for one in part.rejected]
    return whole
