"""Writes the units that share the daemon's hardening: the template for several daemons, and the backfill's service."""

from __future__ import annotations

import re
import sys

from tests import ROOT

DAEMON = ROOT / "systemd/cdn-listener.service"
INSTANCE = {
    "# `cdn-listener systemd install` writes": "# Several daemons: cdn-listener@shop.service reads"
    " /etc/cdn-listener/shop.toml."
    "\n# Each has its own state directory, ledger and admin socket, so give each target its own account."
    "\n# Select it in commands: cdn-listener status --instance shop."
    "\n# `cdn-listener systemd install` writes",
    "Description=cdn-listener:": "Description=cdn-listener for %i:",
    "LISTENER_CONFIG=/etc/cdn-listener/listener.toml": "LISTENER_CONFIG=/etc/cdn-listener/%i.toml",
    "/etc/default/cdn-listener": "/etc/default/cdn-listener-%i",
    "/etc/cdn-listener/credentials/": "/etc/cdn-listener/credentials/%i/",
    "with /var/lib/cdn-listener as": "with /var/lib/cdn-listener-%i as",
    "User=cdn-listener\n": "User=cdn-listener-%i\n",
    "/run/cdn-listener/admin.sock": "/run/cdn-listener-%i/admin.sock",
    "Directory=cdn-listener\n": "Directory=cdn-listener-%i\n",
    "%S/cdn-listener\n": "%S/cdn-listener-%i\n",
}
BACKFILL_HEAD = """\
# Compares the storage with the index once; cdn-listener-backfill.timer starts it.
[Unit]
Description=Refresh changes that no event reported
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
Environment=LISTENER_CONFIG=/etc/cdn-listener/listener.toml
EnvironmentFile=-/etc/default/cdn-listener
ExecStart=/opt/cdn-listener/bin/cdn-listener backfill --mode repair --yes
# Exit status 3: done, but some refreshes wait for quota; the daemon sends them.
SuccessExitStatus=3
# A listing of many millions takes hours; a listing that hangs must not prevent the run of the next week.
TimeoutStartSec=1d

"""


def instance(daemon: str) -> str:
    """Return the template unit."""
    for old, new in INSTANCE.items():
        assert old in daemon, old
        daemon = daemon.replace(old, new)
    return daemon


def backfill(daemon: str) -> str:
    """Return the one-shot unit: the daemon's secrets and hardening below a head of its own."""
    body = daemon[daemon.index("# Secrets arrive") : daemon.index("\n[Install]")]
    # It would go with this unit, also where the daemon has it.
    return BACKFILL_HEAD + re.sub(r"# The admin socket.*\nRuntimeDirectory=.*\nRuntimeDirectoryMode=.*\n", "", body)


UNITS = {"cdn-listener@.service": instance, "cdn-listener-backfill.service": backfill}

if __name__ == "__main__":
    for name, made in UNITS.items():
        (DAEMON.parent / name).write_text(made(DAEMON.read_text()))
        sys.stdout.write(f"systemd/{name}\n")
