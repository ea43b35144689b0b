"""
Fewer changes: what arrives together is merged before it is stored, what is stored waits until it rests.

The first half is :class:`Inbox`: a storm costs the store one row per key, not one per event. The second
is :func:`due_at`: a need is due once its URL was quiet for a while, and at the latest a while after its
first change. Both are pure; time is an argument.
"""

from __future__ import annotations

from listener.coalescer.inbox import Inbox, Taken
from listener.coalescer.merging import merge
from listener.coalescer.timing import due_at

__all__ = ["Inbox", "Taken", "due_at", "merge"]
