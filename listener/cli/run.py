"""``cdn-listener run``: the daemon or sidecar."""

from __future__ import annotations

import os

from listener.cli.common import ConfigOption, log_at, run_async

__all__ = ["run"]


def run(config: ConfigOption = None) -> None:
    """Listen, and refresh what changes, until SIGTERM or SIGINT; SIGHUP reads the configuration anew."""
    from listener.daemon.service import Daemon
    from listener.settings import load_settings

    log_at("info")
    run_async(Daemon(lambda: load_settings(config, os.environ)).run())
