"""What ``cdn-listener init`` prompts for a type of source or target: its plugin declares it as ``questions``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AWS_KEY", "NO_QUESTIONS", "TARGET_NAME", "Credential", "Questions", "SettingQuestion", "secret_setting"]

TARGET_NAME: Final = "cdn"
"""What ``init`` calls the target that it configures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingQuestion:
    """One setting of the plugin's table that has no useful default, or that most people set."""

    key: str
    text: str
    """What is asked, such as ``Plan of the zone``."""
    default: str = ""
    required: bool = False
    """Without it an empty answer leaves the setting out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """
    One secret, by the variable that holds it.

    The plugin reads it by :func:`listener.credentials.read_credential`. For a secret that is a setting of its table see
    :func:`secret_setting`.
    """

    variable: str
    text: str
    """What is asked, such as ``Access key ID``."""
    file: str
    """Its file in the directory of credentials: the name of the variable in lower case, so that it is found there."""
    profile_key: str = ""
    """Its key, where the file is a profile of AWS that holds several."""
    is_secret: bool = True
    """Do not show it while it is typed."""
    required: bool = True
    """Without it an empty answer leaves it to the machine: a role, a profile."""
    is_setting: bool = False
    """It is a setting of the target's table: use :func:`secret_setting`."""

    @property
    def systemd_name(self) -> str:
        """The name by which a unit loads the file."""
        return self.file if self.profile_key or self.is_setting else self.variable.lower()


def secret_setting(key: str, text: str, *, required: bool = True) -> Credential:
    """
    Return the question for a secret that is a setting of the target's own table, such as ``token``.

    ``init`` puts it into a file that the configuration reads; the plugin finds it in its settings.
    """
    return Credential(
        variable=f"LISTENER_TARGETS__{TARGET_NAME}__{key}".upper(),
        text=text,
        file=f"targets.{TARGET_NAME}.{key}",
        required=required,
        is_setting=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Everything that is asked for one type."""

    settings: tuple[SettingQuestion, ...] = ()
    credentials: tuple[Credential, ...] = ()
    endpoint_key: str = "endpoint"
    """The setting that ``init --endpoint`` sets; empty: there is none."""
    endpoint_text: str = ""
    """What is asked for it where it has no default; empty: nothing."""
    endpoint_is_list: bool = False


NO_QUESTIONS: Final = Questions()
"""Of a plugin that declares none."""

AWS_KEY: Final = (
    Credential(
        variable="AWS_ACCESS_KEY_ID",
        text="Access key ID of AWS (empty: the machine's own role or profile)",
        file="aws",
        profile_key="aws_access_key_id",
        is_secret=False,
        required=False,
    ),
    Credential(
        variable="AWS_SECRET_ACCESS_KEY",
        text="Secret access key of AWS",
        file="aws",
        profile_key="aws_secret_access_key",
        required=False,
    ),
)
"""What reads its key by Amazon's chain."""
