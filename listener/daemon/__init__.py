"""
The daemon (and the sidecar, which is the same): runs the pipeline until a signal ends it.

================ ===============================================================================
module           what it does
================ ===============================================================================
service          signals, start, reload (and which files it found changed), shutdown
state            what runs at this moment, whether the loop and the store answer, what is degraded
systemd          notifies the service manager (sd_notify) and resets its watchdog
status           the data of ``status``, with and without a daemon; what is wrong, and the remedy
freshness        how long changes took to become fresh
status_page      what the admin port shows and does
metrics          the status as Prometheus metrics
admin            the port: probes, status page, authentication
command_handlers what commands read and change; ``selection``: what their options select
command_socket   the socket through which commands send requests to the daemon
checks           ``check``: tries everything that the configuration names
================ ===============================================================================

Import from the modules: the commands that only read the status need neither the pipeline nor the port.
"""
