"""Renders the page. Keys, URLs and reasons are hostile: everything is escaped, and nothing is invisible."""

from __future__ import annotations

import functools
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web
from markupsafe import Markup, escape

from listener import __version__
from listener.daemon.freshness import BOUNDS_SECONDS
from listener.daemon.status import iso
from listener.daemon.status_page import DeadLetterPage, PageSnapshot, UrlStatus
from listener.daemon.verdict import verdict_of
from listener.refresh import split_reason
from listener.store.letters import LetterKind
from listener.text import printable, span

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["PageContext", "Renderer", "wants_html"]

SECTIONS = ("verdict", "counts", "answer", "stale", "freshness", "quota", "instances", "sources", "letters", "recent")
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MAX_SHOWN_CHARACTERS = 300
"""Of a subject, URL or reason on the page; commands print them whole."""
_COUNT = re.compile(r"[0-9]{1,9}")
_SAID = {"retry": "Sent again", "discard": "Discarded", "refresh": "Requested"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContext:
    """What the page shows to one person."""

    snapshot: PageSnapshot
    letters: DeadLetterPage
    answer: UrlStatus | None = None
    may_decide: bool = False
    has_token: bool = False
    mark: str = ""
    said: str = ""
    count: str = ""


class Renderer:
    """Templates, style and script, read once."""

    def __init__(self) -> None:
        """Read everything."""
        folder = resources.files(__package__) / "templates"
        self._parts = {name: (folder / name).read_text("utf-8") for name in ("page.css", "page.js")}

    @functools.cached_property
    def _environment(self) -> Environment:
        # Created with the first page, so that the start does not wait for it.
        return _environment()

    def page(self, context: PageContext) -> web.Response:
        """Return the whole page."""
        is_count = _COUNT.fullmatch(context.count) is not None
        said = f"{_SAID[context.said]}: {int(context.count)}" if context.said in _SAID and is_count else ""
        return self._response("page.html", status=200, sections=self.sections(context), context=context, said=said)

    def sections(self, context: PageContext) -> dict[str, str]:
        """Return each section of the page by its id."""
        get = self._environment.get_template
        return {name: get(f"{name}.html").render(context=context, snapshot=context.snapshot) for name in SECTIONS}

    def sign_in(self, *, status: int, problem: str = "") -> web.Response:
        """Return the sign-in page."""
        return self._response("sign_in.html", status=status, problem=problem)

    def problem(self, status: int, message: str, hint: str) -> web.Response:
        """Return a page that explains an error."""
        return self._response("problem.html", status=status, message=message, hint=hint)

    def _response(self, template: str, *, status: int, **values: Any) -> web.Response:
        nonce = secrets.token_urlsafe(18)
        text = self._environment.get_template(template).render(
            nonce=nonce, version=__version__, status=status, **self._safe(), **values
        )
        headers = {"Content-Security-Policy": _POLICY.format(nonce)}
        return web.Response(text=text, content_type="text/html", charset="utf-8", status=status, headers=headers)

    def _safe(self) -> Mapping[str, str]:
        return {"style": self._parts["page.css"], "script": self._parts["page.js"]}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - with the first page

    environment = Environment(
        loader=PackageLoader("listener.daemon.admin"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"iso": iso, "span": span, "number": number, "words": words, "share": share}
    environment.filters |= {"whole": whole, "letters_query": letters_query, "verdict": verdict_of}
    environment.filters |= {"extract": lambda key, values: values[key]}
    environment.filters |= {"decision": lambda reason: split_reason(reason)[0], "numbers": lambda r: split_reason(r)[1]}
    environment.globals |= {"bounds": BOUNDS_SECONDS, "kinds": tuple(LetterKind)}
    return environment


def _finalize(value: Any) -> Any:
    """Make plain text printable and short; what a template marked as safe is its own."""
    return printable(short(value)) if type(value) is str else value


def short(text: str) -> str:
    """Return the text, cut to ``MAX_SHOWN_CHARACTERS``: what others send must not make the page large."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}… ({len(text)} characters)"


def whole(text: str) -> Markup:
    """Return the text escaped and whole, for an attribute that the browser sends back."""
    return escape(printable(text))


def letters_query(page: DeadLetterPage, *, is_next: bool) -> str:
    """Return the query of the first or the next page of these dead letters."""
    kind, source, prefix, _ = page.wanted
    after = page.rows[-1].id if is_next else ""
    values = {"kind": kind and kind.value, "source": source, "prefix": prefix, "after": after}
    return urlencode({name: value for name, value in values.items() if value}, errors="surrogateescape")


def number(value: float) -> str:
    """Return a number with thin spaces between thousands."""
    shown = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.2f}"
    return shown.replace(",", "\u202f")


def words(name: str) -> str:
    """Return an identifier as words."""
    return name.replace("_", " ").replace("-", " ")


def share(part: float, whole: float) -> float:
    """Return a part in per cent of the whole, from 0 to 100."""
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 2) if whole and math.isfinite(part) else 0.0


def wants_html(request: web.Request) -> bool:
    """Return whether the request comes from a browser."""
    return "text/html" in request.headers.get("Accept", "")
