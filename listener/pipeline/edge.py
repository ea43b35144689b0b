"""Whether what was refreshed is probed; where not, nothing that probes is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from listener.clock import Clock
from listener.contracts import Target
from listener.router.routing import Sites
from listener.settings import Settings
from listener.store import Store

if TYPE_CHECKING:
    from listener.pipeline.observing import EdgeWatch

__all__ = ["edge_watch"]


def edge_watch(
    settings: Settings,
    store: Store,
    sites: Sites,
    targets: Mapping[str, Target],
    clock: Clock,
    *,
    changed: Callable[[], None],
) -> EdgeWatch | None:
    """Return what probes complete refreshes, None where ``verifier.edge.mode`` is ``off``."""
    if settings.verifier.edge.mode == "off":
        return None
    from listener.pipeline.observing import EdgeWatch  # noqa: PLC0415 - switched off it costs nothing

    return EdgeWatch(settings, store, sites, targets, clock, changed=changed)
