"""
The pipeline: the only place that knows all stages, and joins them.

::

    sources ─▶ intake ─▶ store ─▶ dispatcher ─▶ sender ─▶ target
                 ▲ ack after commit     ▲ plan      │ held, sending, accepted
                                        │           ▼
                        store.settle ◀─ verifier ◀─ tasks

Daemon, sidecar and backfill run the same pipeline; a backfill's sources end, and so does its run.
"""

from __future__ import annotations

from listener.pipeline.pipeline import Pipeline, copied_sources, store_options

__all__ = ["Pipeline", "copied_sources", "store_options"]
