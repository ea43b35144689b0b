"""
One reader for all queues; ``sqs`` and ``mns`` add a transport, settings, checks and setup.

::

    receive ─▶ in flight ─▶ decoded ─▶ Delivery ─▶ (commit) ─▶ ack ─▶ delete
                  │ hidden again while the commit takes long
                  └ released to other readers at a stop, unless it was delivered

    errors      failed calls, by what helps
    transport   the calls to a queue, as a contract
    in_flight   messages received and not yet acknowledged; acknowledged ones, to recognize redeliveries
    decoding    bodies to changes and dead letters
    deleter     batched deletions
    health      state, readiness and metrics of a source
    reader      one run: poll, deliver, acknowledge, stop
    settings    options that all queue sources share
    source      the Source contract on top of the reader
"""
