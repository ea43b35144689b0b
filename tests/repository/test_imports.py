"""Imports: no module needs itself to be imported, not even for its types."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT


def _modules() -> dict[str, Path]:
    found = {}
    for path in (ROOT / "listener").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run, or are read for types, when a module is imported: none within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from _statements(node)


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a module imports, with and without ``TYPE_CHECKING``."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules.keys()


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle, none where there is none."""
    done: set[str] = set()
    for start, imported in graph.items():
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(imported)))]
        on_path = {start: None}
        while stack:
            module, following = stack[-1]
            after = next((one for one in following if one not in done), None)
            if after is None:
                done.add(module)
                del on_path[module]
                stack.pop()
            elif after in on_path:
                path = list(on_path)
                return [*path[path.index(after) :], after]
            else:
                on_path[after] = None
                stack.append((after, iter(sorted(graph[after]))))
    return []


def test_no_module_imports_itself_over_others() -> None:
    """There is no cycle of imports, those for types included."""
    modules = _modules()
    graph = {name: _imported(path, modules) - {name} for name, path in modules.items()}
    assert _cycle(graph) == []


def test_a_cycle_is_found() -> None:
    """Also one that only closes after modules that are done already."""
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c", "e"}, "e": {"d"}}) == ["d", "e", "d"]


def test_sql_is_only_in_the_store() -> None:
    """Nobody else runs a statement or holds a connection; the spool of a listing is a file of its own."""
    allowed = {ROOT / "listener" / "sources" / "listing" / "spool.py"}
    others = {
        str(path.relative_to(ROOT))
        for path in set(_modules().values()) - allowed
        if (ROOT / "listener" / "store") not in path.parents
        and any(word in path.read_text("utf-8") for word in ("sqlite3", ".execute("))
    }
    assert others == set()


def test_sql_takes_numbers_of_states_from_the_enums() -> None:
    """A statement names ``NeedState``, ``Scope`` or ``Priority``; a literal number would outlive a change of these."""
    literal = re.compile(r"\b(?:state|scope|priority) (?:=|<>|<|>|<=|>=|IN|NOT IN) ?\(?\d")
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in (ROOT / "listener" / "store").glob("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if literal.search(line)
    ]
    assert found == []
