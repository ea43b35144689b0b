"""CloudFront's XML: what a request says, and what its answers look like; no input or output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from listener.emulator.cloudfront.account import Invalidation
from listener.emulator.cloudfront.faults import Problem

__all__ = ["NAMESPACE", "Batch", "error_document", "invalidation_document", "list_document", "read_batch"]

NAMESPACE: Final = "http://cloudfront.amazonaws.com/doc/2020-05-31/"
_NAMES: Final = {"c": NAMESPACE}


class Batch(NamedTuple):
    """The body of CreateInvalidation."""

    reference: str
    paths: Sequence[str]


def read_batch(body: bytes) -> Batch:
    """Return what a request invalidates. Raise :class:`Problem` for what is no such request."""
    if not body:
        raise Problem("MissingBody")
    try:
        root = fromstring(body)
    except (ParseError, DefusedXmlException) as error:
        raise Problem("MalformedXML") from error
    reference = root.findtext("c:CallerReference", "", _NAMES)
    quantity = root.findtext("c:Paths/c:Quantity", "", _NAMES)
    if root.tag != f"{{{NAMESPACE}}}InvalidationBatch" or not reference or not quantity.isdecimal():
        raise Problem("MalformedXML")
    paths = [item.text or "" for item in root.iterfind("c:Paths/c:Items/c:Path", _NAMES)]
    if int(quantity) != len(paths):
        raise Problem("InconsistentQuantities")
    return Batch(reference, paths)


def invalidation_document(one: Invalidation, now: float) -> bytes:
    """Return an invalidation, as Create and Get answer it."""
    root = Element("Invalidation", xmlns=NAMESPACE)
    _summary(root, one, now)
    batch = SubElement(root, "InvalidationBatch")
    paths = SubElement(batch, "Paths")
    SubElement(paths, "Quantity").text = str(len(one.paths))
    items = SubElement(paths, "Items")
    for path in one.paths:
        SubElement(items, "Path").text = path
    SubElement(batch, "CallerReference").text = one.reference
    return _text(root)


def list_document(shown: Sequence[Invalidation], *, marker: str, most: int, next_marker: str, now: float) -> bytes:
    """Return a page of a list."""
    root = Element("InvalidationList", xmlns=NAMESPACE)
    SubElement(root, "Marker").text = marker
    if next_marker:
        SubElement(root, "NextMarker").text = next_marker
    SubElement(root, "MaxItems").text = str(most)
    SubElement(root, "IsTruncated").text = "true" if next_marker else "false"
    SubElement(root, "Quantity").text = str(len(shown))
    items = SubElement(root, "Items")
    for one in shown:
        _summary(SubElement(items, "InvalidationSummary"), one, now)
    return _text(root)


def error_document(code: str, message: str, status: int, request_id: str) -> bytes:
    """Return the answer to what was refused."""
    root = Element("ErrorResponse", xmlns=NAMESPACE)
    error = SubElement(root, "Error")
    SubElement(error, "Type").text = "Sender" if status < 500 else "Receiver"
    SubElement(error, "Code").text = code
    SubElement(error, "Message").text = message
    SubElement(root, "RequestId").text = request_id
    return _text(root)


def _summary(into: Element, one: Invalidation, now: float) -> None:
    SubElement(into, "Id").text = one.id
    SubElement(into, "Status").text = "Completed" if one.is_completed(now) else "InProgress"
    SubElement(into, "CreateTime").text = _stamp(one.created_at)


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(root: Element) -> bytes:
    return ('<?xml version="1.0"?>\n' + tostring(root, "unicode")).encode()
