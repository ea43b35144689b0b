"""What tests of the command line have: a stand, the command called in this process, log handlers put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from listener.cli import main
from tests.stand import KEYS, Stand, a_stand

__all__ = ["Command", "command", "restored", "stand"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
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
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call a command; return its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call
