"""The journal: what was accepted, one JSON line for each request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from listener.errors import ConfigurationError
from listener.files import make_private

__all__ = ["Journal"]


class Journal:
    """
    An append-only file; without a path, nothing is written.

    A line holds ``at`` (seconds since the epoch), ``kind``, ``force``, ``request_id`` and ``paths``, and what the CDN
    adds; Alibaba's are ``window`` (the start of its quota day), ``action``, ``version`` and ``task_ids``. It has
    reached the operating system before the answer leaves, so it survives the death of the emulator and
    of its client, not that of the machine.
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

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the line of one accepted request and flush it."""
        if self._file is not None:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
