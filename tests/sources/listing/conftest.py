"""A stand with the command line, as the tests of the commands have it."""

from __future__ import annotations

from tests.cli.fixtures import command, restored, stand

__all__ = ["command", "restored", "stand"]
