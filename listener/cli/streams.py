"""Standard streams that a command can always write to: whoever read its output may leave, or never have been there."""

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
    """A descriptor that goes on as the null device once nobody reads it, so that the command still does its work."""

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

    A closed descriptor is opened as the null device before anything else is: the next file that is opened, as the
    state file, would take its number, and what is printed would end in that file. A reader that leaves ends nothing:
    the command does its work, and its exit status tells of that.
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
    """Return a stream on the descriptor; one that somebody put in its place is kept, and only escapes what it must."""
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
