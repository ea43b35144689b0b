"""No pattern backtracks on text that somebody else chose: each takes time in proportion to what it reads."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

import listener
from listener.router.globs import glob_expression
from tests.growth import takes_linear_time

PACKAGE = Path(listener.__file__).parent
LENGTH = 8_000
QUICK_SECONDS = 0.012
"""A linear pattern takes under 1 ms for 8,000 characters; a quadratic one ten to a hundred times as long."""
METHODS = {
    "search": "search",
    "sub": "search",
    "subn": "search",
    "split": "search",
    "findall": "findall",
    "finditer": "findall",
    "match": "match",
    "fullmatch": "fullmatch",
}
"""Methods of a pattern, and one that does the same work without further arguments."""
ATOMS = (
    "a",
    "A",
    "0",
    " ",
    "\t",
    "\n",
    "/",
    ".",
    "-",
    "_",
    "%",
    "*",
    "<",
    ">",
    ":",
    "=",
    "@",
    '"',
    "[",
    ",",
    "x-",
    "a.",
    "://",
    "é",
)


class Use(NamedTuple):
    """A pattern and the method of it that some module calls."""

    pattern: re.Pattern[Any]
    method: str


def compiled() -> Iterator[Use]:
    """Yield every pattern that a module of the package keeps, with the methods that the module calls."""
    for info in pkgutil.walk_packages([str(PACKAGE)], "listener."):
        if info.name == "listener.__main__":
            continue
        module = importlib.import_module(info.name)
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        calls = [
            (node.func.attr, ast.unparse(node.func.value))
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        ]
        for name, value in vars(module).items():
            values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            methods = {method for method, of in calls if of == name}
            for one in values:
                if isinstance(one, re.Pattern):
                    yield from (Use(one, METHODS[method]) for method in methods or ("search", "fullmatch"))


def inline() -> Iterator[Use]:
    """Yield every pattern that stands in a call such as ``re.fullmatch(r"…", text)``."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in METHODS
                and ast.unparse(node.func.value) == "re"
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    yield Use(re.compile(first.value), METHODS[node.func.attr])


@functools.cache
def uses() -> tuple[Use, ...]:
    """Return every pattern once for each way in which it is used, in the same order in every process."""
    return tuple(
        sorted({*compiled(), *inline()}, key=lambda use: (repr(use.pattern.pattern), use.pattern.flags, use.method))
    )


def examples(pattern: re.Pattern[Any]) -> list[Any]:
    """Return a few texts that match."""
    found: list[Any] = []

    @seed(1)
    @settings(
        max_examples=15, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
    )
    @given(st.from_regex(pattern))
    def collect(text: Any) -> None:
        found.append(text)

    with contextlib.suppress(HypothesisException):
        collect()
    return sorted(set(found), key=lambda one: (len(one), one))[:8]


def attacks(pattern: re.Pattern[Any]) -> Iterator[Any]:
    """Yield long texts: a part of a match, something repeated, and an end that spoils it."""
    is_bytes = isinstance(pattern.pattern, bytes)
    matches = [one.decode("latin-1") if is_bytes else one for one in examples(pattern)]
    heads = {"", *(one[:end] for one in matches for end in (len(one) // 2, len(one)))}
    parts = {one[at : at + size] for one in matches for at in range(min(len(one), 12)) for size in (1, 2, 3)}
    pumps = [*ATOMS, *sorted(parts - {"", *ATOMS})][:40]
    for head, pump in itertools.product(sorted(heads, key=lambda one: (len(one), one))[:5], pumps):
        text = head + pump * (LENGTH // len(pump)) + "\0"
        yield text.encode("utf-8") if is_bytes else text


@pytest.mark.looptime(False)
@pytest.mark.parametrize("use", uses(), ids=lambda use: f"{use.method} {use.pattern.pattern!r}"[:60])
def test_a_pattern_takes_linear_time(use: Use) -> None:
    """As the package uses it, on hostile texts of 8,000 characters."""
    run = getattr(use.pattern, use.method)
    for text in attacks(use.pattern):
        assert takes_linear_time(run, text, quick_seconds=QUICK_SECONDS), (use, text[:40])


def test_the_patterns_are_found() -> None:
    """The search above sees those of modules, in calls, and of bytes."""
    texts = {use.pattern.pattern for use in uses()}
    assert {r"%([0-9A-Fa-f]{2})", r"[!-~]{1,2048}", b"<NextContinuationToken>([^<]*)</NextContinuationToken>"} <= texts
    assert len(uses()) > 40


GLOBS = (
    "*-*-*-*-*.html",
    "**/*a*a*a*b",
    "**/a*/**/*b*/**/c*c*",
    "**/*.map",
    "a/**/b/**/c/**",
    "[!a]*[ab]*[ab]*x",
    "**/**/**/x",
)


@pytest.mark.looptime(False)
@pytest.mark.parametrize("glob", GLOBS)
@pytest.mark.parametrize("pump", ["-", "a", "/", "a/", "aa/", "a/b/", "c"])
def test_a_site_s_globs_take_linear_time(glob: str, pump: str) -> None:
    """The operator chooses the pattern, an uploader the key: of 8,000 characters, eight times the longest."""
    pattern = re.compile(glob_expression(glob), re.DOTALL)
    text = pump * (LENGTH // len(pump)) + "\0"
    assert takes_linear_time(pattern.fullmatch, text, quick_seconds=QUICK_SECONDS)


@given(
    st.lists(st.sampled_from(["*", "**", "**/", "/", "a", "b", "?", "[ab]", "[!a]"]), max_size=7).map("".join),
    st.text("ab/", max_size=9),
)
@settings(max_examples=2000)
def test_a_linear_glob_matches_what_a_plain_one_does(glob: str, key: str) -> None:
    """Taking the first place for what follows a star changes no answer."""
    assert bool(re.fullmatch(glob_expression(glob), key)) == bool(re.fullmatch(plain(glob), key)), glob


def plain(glob: str) -> str:
    """Return the expression that tries every way."""
    expression, rest = "", glob
    while rest:
        if rest.startswith("**/") and (not expression or glob[: len(glob) - len(rest)].endswith("/")):
            step, token = "(?:.*/)?", "**/"
        elif rest.startswith("**"):
            step, token = ".*", "**"
        elif rest.startswith("["):
            token = rest[: rest.index("]") + 1]
            step = "(?!/)" + token.replace("!", "^")
        else:
            token = rest[0]
            step = {"*": "[^/]*", "?": "[^/]"}.get(token, token)
        expression, rest = expression + step, rest[len(token) :]
    return expression
