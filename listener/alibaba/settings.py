"""Settings that all plugins for Alibaba Cloud share; secrets are no settings (see ``keys``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from yarl import URL

__all__ = ["KeySettings", "Origin", "Table"]

SECRETS = frozenset({"access_key_id", "access_key_secret", "security_token"})


def _origin(text: str) -> str:
    url = URL(text)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("must be a URL such as https://cdn.aliyuncs.com")
    if url.user or url.password or url.path != "/" or url.query_string or url.fragment:
        raise ValueError("must hold scheme, host and port only, such as https://cdn.aliyuncs.com")
    return str(url.origin())


Origin = Annotated[str, AfterValidator(_origin)]
"""Scheme, host and port of a service."""


class Table(BaseModel):
    """A table of the configuration: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class KeySettings(Table):
    """Where the access key comes from; see ``keys``."""

    credentials: Literal["environment", "default-chain"] = "environment"
    """Where the access key comes from: environment and files, or Alibaba's own chain (RAM roles, profiles, …)."""
    environment_prefix: str = Field("ALIBABA_CLOUD", pattern=r"^[A-Z][A-Z0-9_]*$")
    """First part of the variables that hold the key: another one for a second account."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, table: Any) -> Any:
        """Say where the key belongs, instead of rejecting it as an unknown setting."""
        if isinstance(table, dict) and (found := SECRETS.intersection(table)):
            names = ", ".join(f"ALIBABA_CLOUD_{name.upper()}" for name in sorted(found))
            raise ValueError(f"a key never stands in a configuration: set {names} in the environment instead")
        return table
