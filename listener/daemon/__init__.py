"""
The daemon (and the sidecar, which is the same): runs the pipeline until a signal ends it.

=========== ================================================================
module      what it does
=========== ================================================================
service     signals, start, reload, shutdown
state       what runs at this moment: configuration, store, pipeline
systemd     notifies the service manager (sd_notify) and resets its watchdog
health      whether the loop runs and the store commits, and what is degraded
status      the data of ``status``, with and without a daemon
problems    what is wrong, since when, and the remedy
freshness   how long changes took to become fresh
status_page what the admin port shows and does
metrics     the status as Prometheus metrics
admin       the port: probes, status page, authentication
checks      ``check``: tries everything that the configuration names
input_files which files a reload found changed
=========== ================================================================

Import from the modules: the commands that only read the status need neither the pipeline nor the port.
"""
