"""Errors in a configuration, as messages for the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from listener.configuration import SettingsProblem, nearest, refuse, variable_of
from listener.redaction import is_secret_name
from listener.settings.meanings import describe, models_in

__all__ = ["validate_table"]

Model = TypeVar("Model", bound=BaseModel)


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
        case "tuple_type" | "list_type" if isinstance(line["input"], Mapping):
            message = f"must be a list of tables: write [[{dotted}]] instead of [{dotted}]"
            return SettingsProblem(dotted, message, _meaning(model, where))
        case "tuple_type" | "list_type":
            return SettingsProblem(dotted, "must be a list", _meaning(model, where))
        case "model_type" | "dict_type":
            return SettingsProblem(dotted or "the file", "must be a table", _meaning(model, where))
    message = str(line["msg"]).removeprefix("Value error, ")
    return SettingsProblem(dotted or "the file", message, _meaning(model, where))


def _meaning(model: type[BaseModel], where: Sequence[str | int]) -> str:
    """Return the description of the key."""
    names = [part for part in where if isinstance(part, str)]
    describe(model)
    field = _model_at(model, names[:-1]).model_fields.get(names[-1]) if names else None
    return " ".join((field.description or "").replace("``", "").split()) if field else ""


def _model_at(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel]:
    for part in where:
        if isinstance(part, str) and part in model.model_fields:
            model = next(models_in(model.model_fields[part].annotation), model)
    return model
