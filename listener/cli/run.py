"""``cdn-listener run``: the daemon."""

from __future__ import annotations

import os

from listener.cli.common import importing, log_at, run_async
from listener.cli.options import ConfigOption

__all__ = ["run"]


def run(config: ConfigOption = None) -> None:
    """Run the daemon: refresh what changes, until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
    with importing():
        log_at("info")  # before any other import of structlog

        from listener.cli.early_signals import take_reload_request
        from listener.configuration import adopt_credentials
        from listener.daemon.service import Daemon
        from listener.settings import load_settings

    adopt_credentials(config, os.environ)
    daemon = Daemon(lambda: load_settings(config, os.environ), take_reload_request=take_reload_request)
    run_async(daemon.run())
