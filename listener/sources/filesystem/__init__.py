"""
The filesystem source: a tree of files, watched through watchdog's observer and compared with the index.

The way of a change goes through these modules, from the kernel to a delivery:

::

    watcher        the interface of every backend, and the threads that read events
    watches        inotify: which directories are watched, and what events mean
    pending_names  names that events reported, by directory
    names          which names are content, which file is there, who may read it
    live           events to deliveries
    deletion_guard which deletions are believed
    known          what the index knows, what is under way to it, and comparing bytes
    outstanding    what is to be looked at later: unfinished files, scans, unread paths
    mounts         mounts of the tree, and what changes around it without an event
    source         the source, and one run of it: watch, scan, follow

The others: ``settings``, ``kernel`` (inotify by the C library), ``fanotify`` (a backend), ``links`` (files
with several names), ``walker`` (reading a tree in steps), ``scan`` (comparing it with the index), and ``checks`` (what
an operator is shown).
"""

from __future__ import annotations

from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.source import FilesystemSource

__all__ = ["FilesystemSettings", "FilesystemSource"]
