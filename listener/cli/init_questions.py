"""What ``cdn-listener init`` prompts for, and what it makes of the answers; each plugin declares its own questions."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from listener.cli.init_files import Answers
from listener.configuration import expanded, nearest
from listener.credentials import REHEARSAL, read_credential
from listener.errors import ConfigurationError

if TYPE_CHECKING:
    from listener.contracts import Credential, Questions, SettingQuestion

__all__ = ["Asking", "answers_to"]

_DEFAULT_CDN: Final = "alibaba-cdn"
_SCHEMES: Final = ("s3", "oss")


class Asking:
    """Prompts on the terminal, or takes defaults."""

    def __init__(self, *, silent: bool) -> None:
        """Ask nothing if ``silent``."""
        self._silent = silent

    def text(self, question: str, *, flag: str, default: str = "", required: bool = True) -> str:
        """Return the answer. Raise ConfigurationError naming the option where there is none."""
        while not self._silent:
            answer = self._read(f"{question}{f' [{default}]' if default else ''}: ", input, flag) or default
            if answer or not required:
                return answer
        if default or not required:
            return default
        raise ConfigurationError(f"init: {flag} is missing", hint=f"{question}: give it with {flag}")

    def secret(self, one: Credential) -> str:
        """Return a secret, not shown while it is typed; empty where there is none."""
        if self._silent:
            return ""
        hidden = one.is_secret and sys.stdin.isatty()
        return self._read(f"{one.text} ({one.variable}): ", getpass.getpass if hidden else input, one.variable)

    @staticmethod
    def _read(question: str, read: Callable[[str], str], flag: str) -> str:
        try:
            return read(question).strip()
        except EOFError:
            raise ConfigurationError(
                f"init: {flag} is missing, and there is nobody to ask", hint=f"set {flag}"
            ) from None


def answers_to(
    ask: Asking, given: Mapping[str, str], endpoint: str, assignments: Sequence[str], *, must_exist: bool
) -> Answers:
    """Ask for everything that is not given."""
    from listener.plugins import installed

    source = given["source"] or ask.text(
        "What is served: a folder, s3://BUCKET or oss://BUCKET", flag="--source", default=""
    )
    source = _checked_source(source, must_exist=must_exist)
    base_url = _base_url(given["base_url"] or ask.text("Base URL, such as https://www.example.com/", flag="--base-url"))
    types = [one.name for one in installed() if one.group == "targets"]
    cdn = given["cdn"] or ask.text(f"CDN: {', '.join(types)}", flag="--cdn", default=_guessed_cdn(types))
    if cdn not in types:
        raise ConfigurationError(f"--cdn: there is no target of type {cdn!r}", hint=nearest(cdn, types))
    answers = Answers(source=source, base_url=base_url, cdn=cdn)
    values = _assigned(assignments)
    target, storage = _questions_of_target(cdn), _questions_of_source(answers.scheme)
    _take_endpoint(ask, answers, target, endpoint)
    for questions, table in ((target, answers.target_settings), (storage, answers.source_settings)):
        for one in questions.settings:
            _take_setting(ask, one, table, values)
    if values:
        known = [one.key for questions in (target, storage) for one in questions.settings]
        raise ConfigurationError(
            f"--set: {next(iter(values))} is not asked for", hint=nearest(next(iter(values)), known)
        )
    for credential in {one.variable: one for one in (*target.credentials, *storage.credentials)}.values():
        _take_credential(ask, answers, credential)
    return answers


def _checked_source(source: str, *, must_exist: bool) -> str:
    scheme, separator, rest = source.partition("://")
    if separator and scheme == "file":
        source, separator = rest, ""
    if separator:
        if scheme not in _SCHEMES or not rest.strip("/"):
            raise ConfigurationError(f"--source: {source!r} is no folder, s3://BUCKET or oss://BUCKET")
        return source if rest.count("/") == 0 or source.endswith("/") else f"{source}/"
    path = os.path.abspath(expanded(Path(source)))  # noqa: PTH100 - links are followed by the source
    if must_exist and not os.path.isdir(path):  # noqa: PTH112 - a text
        raise ConfigurationError(f"--source: {path} is not a folder", hint="name the folder that the web server serves")
    return path


def _base_url(text: str) -> str:
    url = text if "://" in text else f"https://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"--base-url: {text!r} is no URL", hint="write it as https://www.example.com/")
    return url if url.endswith("/") else f"{url}/"


def _guessed_cdn(types: Sequence[str]) -> str:
    """Return the CDN whose credentials the environment has, else the usual one."""
    for name in types:
        needed = [one for one in _questions_of_target(name).credentials if one.required]
        if needed and all(read_credential(one.variable, os.environ) for one in needed):
            return name
    return _DEFAULT_CDN


def _questions_of_target(cdn: str) -> Questions:
    from listener.contracts import NO_QUESTIONS
    from listener.plugins import plugin_class

    found: Questions = getattr(plugin_class("targets", cdn), "questions", NO_QUESTIONS)
    return found


def _questions_of_source(scheme: str) -> Questions:
    from listener.contracts import NO_QUESTIONS
    from listener.sources.listing.questions import QUESTIONS

    return QUESTIONS.get(scheme, NO_QUESTIONS)


def _assigned(assignments: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigurationError(f"--set: {text!r} is not KEY=VALUE")
        found[key] = value
    return found


def _take_endpoint(ask: Asking, answers: Answers, questions: Questions, endpoint: str) -> None:
    if not endpoint and questions.endpoint_text:
        endpoint = ask.text(questions.endpoint_text, flag="--endpoint")
    if not endpoint:
        return
    if not questions.endpoint_key:
        raise ConfigurationError(f"--endpoint: {answers.cdn} has none")
    several = [one for one in endpoint.replace(",", " ").split() if one]
    answers.target_settings[questions.endpoint_key] = several if questions.endpoint_is_list else endpoint
    answers.is_rehearsal = bool(questions.credentials) and _is_loopback(endpoint)


def _is_loopback(url: str) -> bool:
    from listener.settings import is_loopback

    return is_loopback(f"{urlsplit(url).hostname or ''}:80")


def _take_setting(ask: Asking, one: SettingQuestion, table: dict[str, Any], values: dict[str, str]) -> None:
    value = values.pop(one.key, None)
    if value is None:
        value = ask.text(one.text, flag=f"--set {one.key}=VALUE", default=one.default, required=one.required)
    if value and value != one.default:
        table[one.key] = value


def _take_credential(ask: Asking, answers: Answers, one: Credential) -> None:
    value = read_credential(one.variable, os.environ)
    value = value or ask.secret(one) or (REHEARSAL if answers.is_rehearsal else "")
    if value:
        answers.secrets[one] = value
    elif one.required:
        answers.missing.append(one)
