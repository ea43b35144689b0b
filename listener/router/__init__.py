"""
From a storage's keys to a CDN's URLs: which needs a change makes.

::

    key public/a b/index.html ─cut prefix─▶ a b/index.html ─filter─▶ encode once ─▶ a%20b/index.html
        ─▶ per layer, per base URL: https://www.example.com/a%20b/index.html  and, for an index
           document, https://www.example.com/a%20b/

A key either becomes URLs that can refresh nothing but that key, or is refused with a reason
(:mod:`listener.router.keys`); nothing in between.
"""

from __future__ import annotations

from listener.router.globs import Filter
from listener.router.keys import MAX_KEY_BYTES, encode_key
from listener.router.routing import RoutedNeed, Router

__all__ = ["MAX_KEY_BYTES", "Filter", "RoutedNeed", "Router", "encode_key"]
