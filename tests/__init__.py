"""
Tests of the product; folders mirror those of ``listener``, see README.md.

Programs among them are run from the root of the repository as modules: ``python -m tests.product.crash.storm``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parents[1]
"""The root of the repository."""
