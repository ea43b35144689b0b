"""What is installed only where it is needed: the extras of the package, by the name of the need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from listener.errors import ConfigurationError

__all__ = ["needing"]


@contextmanager
def needing(extra: str, *, what: str) -> Iterator[None]:
    """
    Import what an extra installs.

    Raises:
        ConfigurationError: it is not installed; ``what`` needs it, and the hint is the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise ConfigurationError(
            f"{what} needs the package {missing}", hint=f"pip install 'cdn-listener[{extra}]'"
        ) from error
