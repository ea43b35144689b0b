"""CloudFront's XML, as its API of 2020-05-31 has it; no input or output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

__all__ = ["COMPLETED", "NAMESPACE", "Failure", "Invalidation", "batch_document", "read_failure", "read_invalidation"]

NAMESPACE: Final = "http://cloudfront.amazonaws.com/doc/2020-05-31/"
COMPLETED: Final = "completed"
LONGEST_TEXT: Final = 500
MOST_TAGS: Final = 20_000
"""In one answer: two for each of its paths, and some more. A document of tags alone takes many times its size."""
_NAMES: Final = {"c": NAMESPACE}


class Invalidation(NamedTuple):
    """An invalidation, as Create and Get answer it."""

    id: str
    status: str
    """In lower case: ``inprogress``, then ``completed``."""


class Failure(NamedTuple):
    """An answer without success, as far as it could be read."""

    status: int
    code: str
    message: str
    """As it was sent: it may repeat secrets."""
    request_id: str


def batch_document(reference: str, paths: Sequence[str], *, quantity: int | None = None) -> bytes:
    """Return the body of CreateInvalidation; ``quantity`` is the number of paths unless given."""
    root = Element("InvalidationBatch", xmlns=NAMESPACE)
    SubElement(root, "CallerReference").text = reference
    listed = SubElement(root, "Paths")
    SubElement(listed, "Quantity").text = str(len(paths) if quantity is None else quantity)
    items = SubElement(listed, "Items")
    for path in paths:
        SubElement(items, "Path").text = path
    return tostring(root, "unicode").encode()


def read_invalidation(body: bytes) -> Invalidation | None:
    """Return the invalidation of an answer; None where it has none."""
    root = _parsed(body)
    if root is None or root.tag != f"{{{NAMESPACE}}}Invalidation":
        return None
    found = Invalidation(root.findtext("c:Id", "", _NAMES), root.findtext("c:Status", "", _NAMES).lower())
    return found if found.id and "," not in found.id and found.status else None


def read_failure(status: int, body: bytes) -> Failure:
    """Read an answer without success; whatever cannot be read is left empty."""
    root = _parsed(body)
    if root is None:
        return Failure(status, "", "", "")
    texts = {name: _text(root, name) for name in ("Code", "Message", "RequestId")}
    return Failure(status, texts["Code"], texts["Message"], texts["RequestId"])


def _text(root: Any, name: str) -> str:
    """Return the text of the first element of this name, in whichever namespace: some errors have none."""
    found = next((one for one in root.iter() if one.tag.rpartition("}")[2] == name), None)
    return "" if found is None else (found.text or "")[:LONGEST_TEXT]


def _parsed(body: bytes) -> Any:
    if body.count(b"<") > MOST_TAGS:
        return None
    try:
        return fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        return None
