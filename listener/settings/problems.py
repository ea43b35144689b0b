"""Errors in a configuration, as messages for the operator."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from listener.errors import ConfigurationError
from listener.redaction import is_secret_name

__all__ = ["PREFIX", "SettingsProblem", "nearest", "refuse", "validate_table", "variable_of"]

PREFIX: Final = "LISTENER_"
"""What the name of every variable begins with that sets a value."""

Model = TypeVar("Model", bound=BaseModel)


class SettingsProblem(NamedTuple):
    """One error: the full dotted key, what is wrong, and what to do."""

    key: str
    what: str
    hint: str = ""

    @classmethod
    def of_unknown_name(cls, key: str, kind: str, name: str, known: Iterable[str]) -> Self:
        """Return the problem of an unknown name."""
        return cls(key, f"there is no {kind} named {name!r}", nearest(name, known))


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint with the most similar known name, or with all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    return f"Known are: {', '.join(names)}." if names else "None is configured."


def variable_of(key: str) -> str:
    """Return the environment variable that sets a dotted key."""
    return PREFIX + key.upper().replace("-", "_").replace(".", "__")


def refuse(problems: Sequence[SettingsProblem], *, origin: str, variables: Mapping[str, str]) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` naming all these problems, if there are any."""
    if not problems:
        return
    lines = [f"{problem.key}{_set_by(problem.key, variables)}: {problem.what}" for problem in problems]
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    raise ConfigurationError(f"{origin}: " + "; ".join(lines), hint=" ".join(hints))


def validate_table(
    model: type[Model], table: Mapping[str, Any], *, key: str, origin: str, variables: Mapping[str, str]
) -> Model:
    """Return the table as a model, or raise :class:`~listener.errors.ConfigurationError` with full dotted keys."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = [_problem(model, dict(line), key) for line in error.errors(include_url=False, include_context=False)]
    refuse(problems, origin=origin, variables=variables)
    raise AssertionError("a rejected table has a problem")  # pragma: no cover


def _set_by(key: str, variables: Mapping[str, str]) -> str:
    while key and key not in variables:
        key = key.rpartition(".")[0]
    return f" (set by {variables[key]})" if key else ""


def _problem(model: type[BaseModel], line: Mapping[str, Any], key: str) -> SettingsProblem:
    where = tuple(line["loc"])
    dotted = ".".join(part for part in (key, *map(str, where)) if part)
    match line["type"]:
        case "extra_forbidden":
            parent = "".join(f"{part}." for part in (key, *where[:-1]) if part != "")
            fields = _model_at(model, where[:-1]).model_fields
            known = [field.alias or name for name, field in fields.items()]
            hint = nearest(str(where[-1]), known, prefix=parent)
            return SettingsProblem(dotted, "unknown key", hint)
        case "missing":
            variable = variable_of(dotted)
            way = f"Set {variable} or {variable}_FILE." if is_secret_name(str(where[-1])) else ""
            return SettingsProblem(dotted, "is missing", " ".join(filter(None, (_meaning(model, where), way))))
    message = str(line["msg"]).removeprefix("Value error, ")
    return SettingsProblem(dotted or "the file", message, _meaning(model, where))


def _meaning(model: type[BaseModel], where: Sequence[str | int]) -> str:
    """Return the description of the key."""
    names = [part for part in where if isinstance(part, str)]
    field = _model_at(model, names[:-1]).model_fields.get(names[-1]) if names else None
    return " ".join((field.description or "").replace("``", "").split()) if field else ""


def _model_at(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel]:
    for part in where:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model in a type: itself, or inside lists, unions and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
