"""What the suites of sources and targets check alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from listener.contracts import Check, CheckState

__all__ = ["check_fails", "check_passes", "check_settings"]


def check_settings(plugin: type[Any]) -> None:
    """Fail unless the settings of a plugin refuse unknown keys."""
    model = plugin.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("extra") == "forbid", "derive Settings from listener.settings.Section"


def check_passes(checks: Sequence[Check]) -> None:
    """Fail where there is no check, or one that failed."""
    assert checks, "check returned nothing"
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert not failed, f"check failed: {failed}"


def check_fails(checks: Sequence[Check]) -> None:
    """Fail where no check failed, or one that failed does not say what to do."""
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert failed, f"check did not fail: {checks}"
    assert all(check.message and check.hint for check in failed), "a failed check says what is wrong and what to do"
