"""
The filesystem source: watchdog's observer with an emitter that loses nothing, and scans against the index.

::

    settings   what can be set                 names       what is no content
    kernel     inotify by the C library        tree        directories by place
    pending_names  names not yet looked at     watches     kernel watches, and what events mean
    fanotify   fanotify by the C library    marks       what its events mean
    emitter    watchdog's emitter, two threads listening   observer and root identity
    look       what became of a name           unfinished  held until closed or at rest
    walker     reading a tree in steps         content     same file, same bytes?
    scan       tree against index              rescans     when to scan again
    scanner    scans within a session          links       files with several names
    bindings   kernel watch to path            mounts      what the kernel reports of a file system
    probes     what check tests                trouble     what is wrong, in words
    targets    what links lead to       surroundings  what changes around a tree
    outward    links that lead out
    mountwatch mounts that come and go
    deletion_guard      too many deletions at once      acks        what is not durable yet
    hard_links  other names of a file           live        events to deliveries
    session    one run of all this
"""

from __future__ import annotations

from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.source import FilesystemSource

__all__ = ["FilesystemSettings", "FilesystemSource"]
