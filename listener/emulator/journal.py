"""What was accepted, a JSON line a request, written out before the request is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from listener.clock import window_start
from listener.emulator.actions import Call
from listener.emulator.tasks import TaskRecord
from listener.errors import ConfigurationError
from listener.files import make_private

__all__ = ["Journal", "journal_line"]


class Journal:
    """
    An append-only file; without a path, nothing is written.

    A line holds ``at`` and ``window`` (seconds since the epoch: when, and the start of its quota day),
    ``action``, ``version``, ``kind``, ``force``, ``request_id``, ``task_ids`` and ``paths``. It has reached
    the operating system before the answer leaves, so it survives the death of the emulator and of
    its client, not that of the machine.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file for appending. Raise :class:`ConfigurationError` when that is not possible."""
        self._file: TextIO | None = None
        if path is not None:
            try:
                make_private(path)
                self._file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(
                    f"The journal {str(path)!r} cannot be written: {error.strerror}.",
                    hint="Give --journal another file.",
                ) from error

    def accepted(self, call: Call, records: Sequence[TaskRecord], request_id: str) -> None:
        """Write one accepted request and flush it."""
        if self._file is not None:
            self._file.write(json.dumps(journal_line(call, records, request_id), separators=(",", ":")) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()


def journal_line(call: Call, records: Sequence[TaskRecord], request_id: str) -> dict[str, Any]:
    """Return the fields of one line."""
    return {
        "at": call.now,
        "window": window_start(call.now),
        "action": call.action,
        "version": call.version.name,
        "kind": records[0].kind.value,
        "force": records[0].force,
        "request_id": request_id,
        "task_ids": list(dict.fromkeys(record.task_id for record in records)),
        "paths": [record.path for record in records],
    }
