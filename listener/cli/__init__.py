"""
The command line: one file per command, a few lines each over the library.

What people read goes to stdout, as JSON with ``--json``; errors and logs go to stderr. Exit status: 0 done,
1 failed, 2 usage or configuration, 3 done but something was deferred or parked, 130 interrupted.
"""

from __future__ import annotations

from listener.cli.entry import main

__all__ = ["main"]
