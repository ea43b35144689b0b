"""Standard streams that can always be written to, even when nobody reads them (any more)."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


__all__ = ["make_safe"]

_GONE = {errno.EPIPE, errno.EIO}
"""The reader of a pipe ended; the terminal was closed."""


class _Lasting(io.FileIO):
    """A descriptor that becomes the null device once its reader has gone, so that the command still does its work."""

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]
        """Write, or drop what nobody reads."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def make_safe() -> None:
    """
    Make stdout and stderr safe to write to, in this process.

    A closed descriptor is first opened as the null device: otherwise the next file opened, such as the state file,
    would take its number and receive the output. A reader that leaves does not end the command, whose exit status
    still reports its own result.
    """
    _occupy()
    sys.stdout = _safe(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, 2)


def _occupy() -> None:
    """Open the null device in place of each standard descriptor that is closed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one


def _safe(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream on the descriptor; a stream that replaced it (as in tests) is kept, with escaping added."""
    if stream is not None and (stream is not original or isinstance(getattr(stream, "buffer", None), _Buffer)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # keys may hold bytes that are no UTF-8
        return stream
    if stream is not None:
        stream.flush()
    raw = _Lasting(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        _Buffer(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or descriptor == 2,
    )


class _Buffer(io.BufferedWriter):
    """A buffer of ours."""
