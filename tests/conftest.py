"""What every test shares: how long Hypothesis searches, and no setting that leaks in from outside."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), max_examples=300, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings and credentials of the machine out of every test."""
    for name in list(os.environ):
        if name.startswith(("LISTENER_", "ALIBABA_CLOUD_", "AWS_")) or name in (
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
        ):
            monkeypatch.delenv(name)
