"""
What settings mean: the docstrings below them, as descriptions of the models' fields.

They are read when an error, a schema or a page of the documentation needs them. Pydantic would read them from the
source files at each import (``use_attribute_docstrings``), a tenth of the daemon's start.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel

__all__ = ["describe", "described", "models_in"]


def described(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model, whose JSON Schema, too, has what its fields mean."""
    for one in describe(model):
        one.model_rebuild(force=True)
    return model


def describe(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Give the fields of a model, and of those in it, their docstrings as descriptions; return all, inner first."""
    inner = [one for field in model.model_fields.values() for one in models_in(field.annotation)]
    found = [deeper for one in inner for deeper in describe(one)]
    meanings = {name: text for base in reversed(model.__mro__) for name, text in _docstrings(base)}
    for name, field in model.model_fields.items():
        field.description = field.description or meanings.get(name)
    return list(dict.fromkeys([*found, model]))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type: itself, or inside lists, unions and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _docstrings(model: type) -> Iterator[tuple[str, str]]:
    """Yield the fields that a class declares itself with the texts below them; none where its source is not at hand."""
    if not issubclass(model, BaseModel) or model is BaseModel:
        return
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(ast.Constant(str() as words)):
                    yield field.target.id, inspect.cleandoc(words)
