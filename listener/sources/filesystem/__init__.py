"""
The filesystem source: a tree of files, watched through watchdog's observer and compared with the index.

::

    settings       what can be set
    source         the source, and one run of it: watch, scan, follow
    watcher        threads that read the kernel's queue; fanotify in place of inotify
    watches        which directories are watched, and what events mean
    kernel         inotify and fanotify by the C library
    pending_names  names that events reported, by directory
    names          which names are content, what they are, who may read them
    live           events to deliveries, and the deletion guard
    known          what the index knows, what is under way to it, and comparing bytes
    outstanding    what is to be looked at later: unfinished files, scans, unread paths
    links          links, files with several names, and what they lead to
    mounts         mounts of the tree, and what changes around it without an event
    walker         reading a tree in steps
    scan           comparing a tree with the index
    checks         what the check command tests
    trouble        what is wrong, in words
"""

from __future__ import annotations

from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.source import FilesystemSource

__all__ = ["FilesystemSettings", "FilesystemSource"]
