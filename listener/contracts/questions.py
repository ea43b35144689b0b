"""What ``cdn-listener init`` prompts for a type of source or target: its plugin declares it as ``questions``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AWS_KEY", "NO_QUESTIONS", "Credential", "Questions", "SettingQuestion"]


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
    """One secret, by the variable that holds it (see :mod:`listener.credentials`)."""

    variable: str
    text: str
    """What is asked, such as ``Access key ID``."""
    file: str
    """Its file in the directory of credentials."""
    profile_key: str = ""
    """Its key, where the file is a profile of AWS that holds several."""
    is_secret: bool = True
    """Do not show it while it is typed."""
    required: bool = True
    """Without it an empty answer leaves it to the machine: a role, a profile."""

    @property
    def systemd_name(self) -> str:
        """The name by which a unit loads the file."""
        return self.file if self.profile_key else self.variable.lower()


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
