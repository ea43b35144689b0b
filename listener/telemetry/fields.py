"""What the fields of a log line may hold: plain data without secrets, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import structlog

from listener.redaction import mask_text, masked

__all__ = ["LINE_BREAKS", "MOST_CHARACTERS", "MOST_ITEMS", "safe_fields"]

MOST_CHARACTERS: Final = 2_000
"""Of one text: more than the longest key that becomes a URL (1,024 bytes)."""
MOST_CHARACTERS_OF_A_TRACEBACK: Final = 16_000
MOST_ITEMS: Final = 50
"""Of one list or mapping."""
MOST_LEVELS: Final = 5
"""Of nested lists and mappings."""
LINE_BREAKS: Final[Mapping[str, str]] = {"exception": "\n\t", "stack": "\n\t"}
"""Fields of several lines, and which control characters they keep on a terminal."""
_MOST: Final = dict.fromkeys(LINE_BREAKS, MOST_CHARACTERS_OF_A_TRACEBACK)


def safe_fields(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return the event with every field plain, masked and cut: a processor of structlog."""
    plain = {name: _plain(value, _MOST.get(name, MOST_CHARACTERS)) for name, value in event.items()}
    clean: dict[str, Any] = masked(plain)
    return clean


def _plain(value: Any, most: int, levels: int = MOST_LEVELS) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if not levels and isinstance(value, Mapping | list | tuple | set | frozenset):
        return "…"
    if isinstance(value, Mapping):
        items = {str(key): _plain(item, most, levels - 1) for key, item in islice(value.items(), MOST_ITEMS)}
        return items if len(value) <= MOST_ITEMS else {**items, "…": _more(value)}
    if isinstance(value, list | tuple | set | frozenset):
        texts = [_plain(item, most, levels - 1) for item in islice(value, MOST_ITEMS)]
        return texts if len(value) <= MOST_ITEMS else [*texts, _more(value)]
    return _text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value), most)


def _text(text: str, most: int) -> str:
    """Return the text masked and cut. Of an enormous one only the beginning is masked, since that takes time too."""
    if len(text) <= most:
        return mask_text(text)
    shown = mask_text(text[: 4 * most])
    if len(text) > 4 * most:
        shown = shown[:-most]  # a secret may have been cut in two at the end
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(text)} characters)"


def _more(value: Any) -> str:
    return f"… {len(value) - MOST_ITEMS} more"
