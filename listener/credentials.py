"""
Credentials that never stand in a configuration: from variables and files.

A value is looked for in this order: the variable, the file that ``<variable>_FILE`` names, the file of the variable's
name in ``$CREDENTIALS_DIRECTORY`` (systemd's LoadCredential). Without that variable it is the directory ``credentials``
next to the configuration: see :func:`listener.configuration.adopt_credentials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from listener.errors import ConfigurationError
from listener.settings import expanded

__all__ = ["REHEARSAL", "file_names", "read_credential", "variants_of"]

LONGEST_VALUE_BYTES = 16_384
"""A file larger than this is no key; a temporary token has a few hundred bytes."""
REHEARSAL = "rehearsal"
"""What the emulators accept as key and token where none is set."""
_VENDOR = "alibaba_cloud_"


def read_credential(name: str, environment: Mapping[str, str]) -> str:
    """
    Return the credential of a variable, read again at each call; empty where there is none.

    Raises :class:`~listener.errors.ConfigurationError` for a file that cannot be read, and a value that is none.
    """
    value = environment.get(name, "").strip() or _from_file(name, environment)
    if not all("!" <= char <= "~" for char in value):
        what = f"{name} holds a blank, a control or a non-ASCII character"
        raise ConfigurationError(what, hint="copy the key again")
    return value


def variants_of(name: str) -> str:
    """Return where else than in the variable it may be, for a hint."""
    return f"{name}_FILE or $CREDENTIALS_DIRECTORY/{name.lower()}"


def file_names(name: str) -> tuple[str, ...]:
    """Return the names that a variable's file may have in a directory of credentials."""
    plain = name.lower()
    return (plain, plain.removeprefix(_VENDOR).replace("_", "-")) if plain.startswith(_VENDOR) else (plain,)


def _from_file(name: str, environment: Mapping[str, str]) -> str:
    if named := environment.get(f"{name}_FILE", ""):
        return _contents(expanded(Path(named)), f"{name}_FILE")
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    paths = [Path(directory, one) for one in file_names(name)] if directory else []
    return next((_contents(path, "$CREDENTIALS_DIRECTORY") for path in paths if path.exists()), "")


def _contents(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_VALUE_BYTES + 1)
        if len(raw) > LONGEST_VALUE_BYTES:
            raise ConfigurationError(f"{path} ({variable}) is too large to be a key", hint=f"correct {variable}")
        return raw.decode().strip()
    except OSError as error:
        what = f"cannot read {path}: {error.strerror}"
        raise ConfigurationError(what, hint=f"correct {variable} or the file") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} ({variable}) is not text", hint=f"correct {variable}") from None
