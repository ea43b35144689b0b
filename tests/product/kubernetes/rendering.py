"""What ``kubectl apply -k`` would apply: the part of Kustomize that our folders use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    """Return the documents of a file."""
    return [dict(one) for one in yaml.safe_load_all(path.read_text())]


def rendered(folder: Path) -> list[Document]:
    """Return the resources of a folder, those of its bases included, with its patches; without what is generated."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    found: dict[tuple[str, str], Document] = {}
    for name in kustomization["resources"]:
        path = folder / name
        for one in rendered(path) if path.is_dir() else documents(path):
            found[_place(one)] = one
    for patch in kustomization.get("patches", ()):
        for change in documents(folder / patch["path"]):
            if change.get("$patch") == "delete":
                del found[_place(change)]
            else:
                found[_place(change)] = _merged(found[_place(change)], change)
    return list(found.values())


def _place(one: Document) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _merged(old: Any, new: Any) -> Any:
    """Merge as a strategic merge does: lists of named things by their names, other lists as a whole, null removes."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: _merged(old[key], new[key]) if key in old else new[key] for key in new if new[key] is not None}
        return {**{key: value for key, value in old.items() if key not in new}, **both}
    if isinstance(old, list) and isinstance(new, list) and all("name" in one for one in [*old, *new]):
        changes = {one["name"]: one for one in new}
        kept = [_merged(one, changes.pop(one["name"])) if one["name"] in changes else one for one in old]
        return [*kept, *changes.values()]
    return new
