"""
The daemon (and the sidecar, which is the same): the pipeline, run until a signal ends it.

========== ===================================================================
module     what it does
========== ===================================================================
service    signals, reload, start and end
notify     the service manager's protocol (systemd's sd_notify)
health     is the loop turning, does the store commit, what is in the way
status     the numbers behind ``status``, with and without a daemon
probes     ``check``: everything that the configuration names, tried
admin      ``/livez``, ``/readyz``, ``/healthz``, ``/metrics``, ``/api/status``
metrics    the status in Prometheus' words
========== ===================================================================
"""

from __future__ import annotations

from listener.daemon.probes import probe_all
from listener.daemon.service import Daemon
from listener.daemon.status import iso, plain_order, quota_of, status_of

__all__ = ["Daemon", "iso", "plain_order", "probe_all", "quota_of", "status_of"]
