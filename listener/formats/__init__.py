"""
From the body of a message to changes, for every object store that sends events; pure.

``decode`` is all that a source needs. Envelopes (SNS, MNS, Lambda) are opened by shape; each vendor has a
module with one table that says which of its event names means what. Keys are decoded exactly once, as
their vendor encodes them. Order tokens are given only where a vendor's tokens order the changes of one key.
"""

from __future__ import annotations

from listener.formats.decoding import FORMATS, Format, decode
from listener.formats.reading import Decoded

__all__ = ["FORMATS", "Decoded", "Format", "decode"]
