"""
The command line: thin commands over the library.

Output goes to stdout (JSON with ``--json``), errors and logs to stderr. Exit status: 0 done, 1 failed, 2 usage or
configuration, 3 done but something was deferred or rejected, 130 interrupted.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (by default the process's own) and return its exit status."""
    if not _is_whole():
        return 1
    if arguments is None and sys.argv[1:2] == ["run"]:
        from listener.cli.early_signals import install

        install()
    from listener.cli.plain import run_plain

    status = run_plain(sys.argv[1:] if arguments is None else arguments)
    if status is None:
        from listener.cli.app import main as run

        status = run(arguments)
    if arguments is None and threading.active_count() > 1:
        from listener.cli.process import bound_exit

        bound_exit(status)
    return status


def _is_whole() -> bool:
    """Return whether the package above is ours; report another distribution that took its place."""
    try:
        from listener import __version__  # noqa: F401
    except ImportError:
        sys.stderr.write(
            "error: another distribution has replaced files of cdn-listener: both have the import name `listener`\n"
            "hint: install cdn-listener into an environment of its own, or: pip uninstall listener, then reinstall it\n"
        )
        return False
    return True
