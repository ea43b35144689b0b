"""
From a storage's keys to a CDN's URLs: which needs a change makes.

::

    key public/a b/index.html ─cut prefix─▶ a b/index.html ─filter─▶ addresses ─▶ a%20b/index.html  a%20b/
        ─▶ per layer, per base URL: https://www.example.com/a%20b/index.html  https://www.example.com/a%20b/

Which addresses a key has, the site says (:mod:`listener.router.addresses`). A key either becomes URLs that can refresh
nothing but that key, or is refused with a reason (:mod:`listener.router.addresses`); nothing in between.
"""

from __future__ import annotations

from listener.router.addresses import MAX_URL_BYTES
from listener.router.globs import Filter
from listener.router.routing import RoutedNeed, Router

__all__ = ["MAX_URL_BYTES", "Filter", "RoutedNeed", "Router"]
