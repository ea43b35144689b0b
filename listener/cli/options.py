"""
What a command line may say, as plain data next to the functions that do the work.

:mod:`listener.cli.app` makes typer's options from it, and :mod:`listener.cli.plain` reads plain command lines by it,
since importing typer takes longer than most commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

__all__ = [
    "Argument",
    "ConfigOption",
    "JsonOption",
    "NullOption",
    "Option",
    "PrefixOption",
    "ReasonOption",
    "SiteOption",
    "TargetOption",
    "VerboseOption",
    "WideOption",
    "span_option",
]


class Option(NamedTuple):
    """One option; a parameter of type ``bool`` makes it a flag."""

    name: str
    help: str
    short: str = ""
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    """Returns the value of a text, or raises ValueError with what is wrong."""
    least: int | None = None
    most: int | None = None
    hidden: bool = False


class Argument(NamedTuple):
    """What is given without a name."""

    metavar: str
    help: str


_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
MOST_SECONDS: Final = 366 * 86400.0


def _seconds(text: str) -> float:
    """Return the seconds in a span such as ``90``, ``10m`` or ``1h30m``."""
    if not _SPAN.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"([\d.]+)([smhd]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if seconds > MOST_SECONDS:
        raise ValueError(f"{text!r} is longer than a year")
    return seconds


def span_option(name: str, meaning: str) -> Option:
    """Return an option that takes a span of time, written as ``90s``, ``10m``, ``1h30m`` or ``2d``, in seconds."""
    return Option(name, meaning, parse=_seconds, metavar="SPAN")


ConfigOption = Annotated[
    Path | None,
    Option(
        "--config",
        metavar="FILE",
        help="The configuration file. Default: $LISTENER_CONFIG, listener.toml, /etc/cdn-listener/listener.toml.",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print JSON.")]
VerboseOption = Annotated[bool, Option("--verbose", help="Also print the numbers behind each decision.")]
SiteOption = Annotated[
    str | None,
    Option("--site", metavar="N", help="Which of the [[sites]]: its name, number (from 0), source or base URL."),
]
NullOption = Annotated[
    bool, Option("--null", short="-0", help="List entries end with NUL, as from find -print0 or git diff -z.")
]
PrefixOption = Annotated[
    str | None,
    Option("--prefix", metavar="P", help="Only URLs that start with this: a URL, or a path below the site."),
]
TargetOption = Annotated[str | None, Option("--target", metavar="NAME", help="Only this target.")]
WideOption = Annotated[bool, Option("--wide", help="Do not fit a table to the terminal: show every column whole.")]
ReasonOption = Annotated[str, Option("--reason", metavar="TEXT", help="Why. Kept in the audit.")]
InstanceOption = Annotated[
    str | None,
    Option(
        "--instance",
        metavar="NAME",
        help="Use the instance cdn-listener@NAME.service: its configuration /etc/cdn-listener/NAME.toml and its state.",
    ),
]
