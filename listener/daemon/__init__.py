"""
The daemon (and the sidecar, which is the same): the pipeline, run until a signal ends it.

========== ===================================================================
module     what it does
========== ===================================================================
service    signals, reload, start and end
life       what runs at this moment: configuration, store, pipeline
telling    what the service manager hears meanwhile
notify     its protocol (systemd's sd_notify)
health     is the loop turning, does the store commit, what is in the way
status     the numbers behind ``status``, with and without a daemon
freshness  how long changes took to become fresh
view       all of this as the admin port asks for it
metrics    the status in Prometheus' words
admin      the port itself: probes, status page, who may decide
probes     ``check``: everything that the configuration names, tried
========== ===================================================================

Import from the modules: who only reads the status needs neither the pipeline nor the port.
"""
