"""What the suites of sources and targets check alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, SecretStr

from listener.contracts import Check, CheckState, Credential, Questions, secret_setting
from listener.credentials import file_names
from listener.redaction import is_secret_name

__all__ = ["check_fails", "check_passes", "check_questions", "check_settings"]


def check_settings(plugin: type[Any]) -> None:
    """Fail unless the settings of a plugin refuse unknown keys, and each secret can come from a file."""
    model = plugin.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("extra") == "forbid", "derive Settings from listener.settings.Section"
    for name, field in model.model_fields.items():
        is_secret = field.annotation in (SecretStr, SecretStr | None)
        assert not is_secret or is_secret_name(name), (
            f"{name}: let the name of a secret contain token, secret or password, or no file is read for it"
        )


def check_questions(plugin: type[Any]) -> None:
    """Fail where ``init`` would write a setting or a credential that the plugin does not read."""
    questions: Questions | None = getattr(plugin, "questions", None)
    if questions is None:
        return
    fields = plugin.Settings.model_fields
    asked = {one.key for one in questions.settings} | {questions.endpoint_key} - {""}
    asked |= {one.file.rpartition(".")[2] for one in questions.credentials if one.is_setting}
    assert asked <= set(fields), f"questions about what is no setting: {asked - set(fields)}"
    missing = {name for name, field in fields.items() if field.is_required()} - asked
    assert not missing, f"no question about settings without a default: {missing}"
    for one in questions.credentials:
        assert _is_read(one), f"{one.variable}: call its file {one.variable.lower()}, or nothing reads it"


def _is_read(one: Credential) -> bool:
    if one.is_setting:
        expected = secret_setting(one.file.rpartition(".")[2], one.text)
        return (one.variable, one.file) == (expected.variable, expected.file)
    return bool(one.profile_key) or one.file in file_names(one.variable)


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
