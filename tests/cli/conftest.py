"""The command line, called in this process: exit status, stdout and stderr of each command."""

from __future__ import annotations

from tests.cli.fixtures import command, restored, stand

__all__ = ["command", "restored", "stand"]
