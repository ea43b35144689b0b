"""
The filesystem source: watchdog's observer with an emitter that loses nothing, and scans against the index.

::

    settings          what can be set
    session           one run of all this
    listening         observer and root identity
    emitter           watchdog's emitter, two threads
    kernel            inotify by the C library
    watches           kernel watches, and what events mean
    fanotify          fanotify by the C library
    fanotify_watches  what its events mean
    tree              directories by place
    bindings          kernel watch to path
    pending_names     names not yet looked at
    file_stat         what became of a name
    live              events to deliveries
    unfinished        held until closed or at rest
    walker            reading a tree in steps
    scan              tree against index
    scanner           scans within a session
    rescans           when to scan again
    content           same file, same bytes?
    digests           digests for the index, in spare time
    names             what is no content
    links             links, and files with several names
    hard_links        other names of a file
    targets           what links lead to
    outward           links that lead out
    mounts            what the kernel reports of a file system
    mountwatch        mounts that come and go
    surroundings      what changes around a tree
    deletion_guard    too many deletions at once
    acks              what is not durable yet
    standing          what is known of names
    probes            what check tests
    trouble           what is wrong, in words
"""

from __future__ import annotations

from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.source import FilesystemSource

__all__ = ["FilesystemSettings", "FilesystemSource"]
