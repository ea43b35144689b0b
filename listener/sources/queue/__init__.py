"""
One reader for all queues; ``sqs`` and ``mns`` add a transport, settings, checks and setup.

::

    receive ─▶ in flight ─▶ decoded ─▶ Delivery ─▶ (commit) ─▶ ack ─▶ delete
                  │ hidden again while the commit takes long
                  └ released to other readers at a stop, unless it was delivered

    transport   the calls to a queue, as a contract; failed calls, by what helps
    messages    messages in flight, acknowledged ones, and what their bodies say
    reader      one run: poll, deliver, acknowledge, delete, stop
    health      state, readiness and metrics of a source
    settings    options that all queue sources share
    source      the Source contract on top of the reader
"""
