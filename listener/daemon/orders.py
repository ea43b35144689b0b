"""Orders by hand as plain data, for ``status --json`` and the commands that give them."""

from __future__ import annotations

from typing import Any

from listener.daemon.status import iso
from listener.store.controls import Control

__all__ = ["plain_order"]


def plain_order(order: Control) -> dict[str, Any]:
    """Return one standing order; ``target`` and ``prefix`` are empty where it is about every one."""
    return {
        "kind": order.kind.value,
        "target": order.place.target,
        "prefix": order.place.prefix,
        "until": iso(order.until),
        "reason": order.reason,
        "at": iso(order.at),
    }
