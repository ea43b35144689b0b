"""Keys that somebody names: from a file, from a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem.names import fingerprint_of
from listener.sources.listing.answers import Entry
from listener.sources.listing.spool import Spool
from listener.sources.listing.tree import status_of

__all__ = ["KeyList"]


class KeyList:
    """Named keys; as many as the disk holds."""

    complete = False

    def __init__(self, root: str, keys: Iterable[bytes], *, prefix: str = "", tree: Path | None = None) -> None:
        """Take the keys; with ``tree``, the directory that holds the files, they are looked up there."""
        self.root = root
        self.prefix = prefix
        raw, unknown = key_to_bytes(prefix), Fingerprint()
        self._keys = Spool()
        try:
            self._keys.add(Entry(key_to_text(key), unknown) for key in keys if key and key.startswith(raw))
        except BaseException:
            self._keys.close()
            raise
        self._tree = None if tree is None else os.fsencode(tree).rstrip(b"/") + b"/"

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"{len(self)} keys"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return self._keys.digest("keys", self.root)

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each key above ``after``, in byte order; a key that ends with ``/`` is a subtree."""
        return (self._change(entry.key) for entry in self._keys.entries(after))

    def close(self) -> None:
        """Release the table of keys."""
        self._keys.close()

    def _change(self, text: str) -> Change:
        key = key_to_bytes(text)
        if key.endswith(b"/"):
            return Change(self.root, text, ChangeKind.SUBTREE)
        if self._tree is None or b"\0" in key:
            return Change(self.root, text)
        status = status_of(self._tree + key)
        if status is None:
            return Change(self.root, text, ChangeKind.DELETED)
        return Change(self.root, text, ChangeKind.CONTENT, fingerprint_of(status))
