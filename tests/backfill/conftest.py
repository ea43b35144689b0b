"""A stand with the command line, as the tests of the commands have it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from shells import KEYS, Stand, a_stand

from listener.cli import main


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give pytest its own log handlers back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    """An origin with an emulator before it, and the environment that a user would set."""
    with a_stand(tmp_path / "stand") as stand:
        for name, value in {**KEYS, "LISTENER_CONFIG": str(stand.config)}.items():
            monkeypatch.setenv(name, value)
        yield stand


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call a command; return its exit status, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call
