"""
Conformance suites: tests that every source and every target must pass.

Derive a class whose name starts with ``Test`` in a test module of your package, say how to make your plugin and how to
drive what stands behind it, and run pytest. No pytest plugin is needed; every test runs its own event loop::

    class TestJsonLog(SourceConformance):
        def make_source(self, folder): ...
        async def change(self, folder, key): ...

A test whose hook is not overridden passes without doing anything.
"""

from __future__ import annotations

from listener.testing.following import Follower, MemoryIndex
from listener.testing.sources import SourceConformance
from listener.testing.targets import Service, TargetConformance

__all__ = ["Follower", "MemoryIndex", "Service", "SourceConformance", "TargetConformance"]
