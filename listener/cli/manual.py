"""The manual page and the completion scripts, made from what the commands declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from listener import __version__

__all__ = ["SHELLS", "completion_script", "manual_page"]

NAME: Final = "cdn-listener"
SHELLS: Final = ("bash", "zsh", "fish")
_FILES: Final = {
    "listener.toml": "the configuration, in the current directory",
    "/etc/cdn-listener/listener.toml": "the configuration of the service",
    "/etc/cdn-listener/credentials/": "access keys and tokens, for root alone",
    "/var/lib/cdn-listener/state.db": "what is stale, what was sent, what was spent",
}
_STATUS: Final = {
    "0": "done",
    "1": "failed",
    "2": "usage or configuration, missing credentials included",
    "3": "done, but something was deferred or rejected",
    "130": "interrupted",
}


def completion_script(shell: str) -> str:
    """Return the script that completes commands and options in this shell; raise ValueError for an unknown one."""
    from typer._completion_shared import get_completion_script

    if shell not in SHELLS:
        raise ValueError(f"{shell!r} is not one of {', '.join(SHELLS)}")
    variable = f"_{NAME}_COMPLETE".replace("-", "_").upper()
    return get_completion_script(prog_name=NAME, complete_var=variable, shell=shell)


def manual_page(command: Any) -> str:
    """Return the manual page of the whole command line, for ``man -l``."""
    return "\n".join(_lines(command)) + "\n"


def _lines(top: Any) -> Iterator[str]:
    yield f'.TH CDN\\-LISTENER 1 "" "{NAME} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{_text(NAME)} \\- {_text('refresh the CDN when the storage behind it changes')}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(NAME)}"
    yield ".I COMMAND"
    yield "[\\fIOPTION\\fR]..."
    yield ".SH DESCRIPTION"
    yield _text(_paragraphs(top.help)[0])
    yield ".SH COMMANDS"
    for path, one in _commands(top, ()):
        yield from _command(path, one)
    yield ".SH EXIT STATUS"
    yield from _list(_STATUS)
    yield ".SH FILES"
    yield from _list(_FILES)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with the words that call it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, one in (below or {}).items():
        yield from _commands(one, (*path, name))


def _command(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"]
    yield f".SS {_text(' '.join((*path, *arguments)))}"
    for paragraph in _paragraphs(command.help):
        yield _text(paragraph)
        yield ".PP"
    for one in command.params:
        if one.param_type_name == "option" and not one.hidden:
            value = "" if one.is_flag else f" {one.metavar or one.name.upper()}"
            yield ".TP"
            yield f"\\fB{_text(', '.join(one.opts))}\\fR{_text(value)}"
            yield _text(one.help or "")


def _list(rows: dict[str, str]) -> Iterator[str]:
    for name, meaning in rows.items():
        yield ".TP"
        yield f".B {_text(name)}"
        yield _text(meaning)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n")] or [""]


def _text(text: str) -> str:
    """Return a text without anything that roff would obey."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
