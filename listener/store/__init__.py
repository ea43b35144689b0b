"""
The store: what changed and is not settled yet, what was requested of a CDN, and what it cost.

One SQLite file in WAL mode with ``synchronous=FULL``: what a commit returned from survives SIGKILL
and power loss. One thread owns the writing connection and commits in groups; readers have
connections of their own and never wait for it. Of the processes that open the file, one at a time
(the *owner*, by a lock on ``<file>.lock``) may send; any other may add needs and read.

Or one PostgreSQL schema that several instances share (``postgres``). Each operation is written once, in SQL that
SQLite runs as it is and that ``postgres.translation`` translates.

**Files**

=================== ===========================================================================
``store``           the coroutines that everything else calls
``access``          the way to a database of either kind; ``writer``: the thread that writes
``connection``      what operations need of a database; what each kind does in its own way is a driver
``sqlite``          what only SQLite needs: opening the file and its errors (``database``), its format
                    (``migrations``), the lock of the process that sends and damage that ends all writing
                    (``ownership``), how the owner learns of commits of other processes (``announcements``),
                    backup, check, compaction and free space given back (``maintenance``)
``retention``       what bounds each table; removal of old rows in slices
``record``          changes become index rows and needs (``need_rows``), by ``batches``; ``filtering``: what makes none
``index``           what each storage is known to hold; ids of names; ``bulk``: many rows by few statements
``needs``           what planning reads: what is due, and which attempt covers what
``transitions``     needs become due, are sent, settled; ``reserve``: a plan becomes attempts
``attempts``        the ledger, and attempts until they end; ``groups``: what happens to many of them at once
``layering``        what an outer layer of caches waits for; ``moments``: when work came, for the planner
``copies``          when copies of one tree on the hosts of several instances are the same
``controls``        orders and requests of people; reports of the daemon
``report``          counts and history; ``staleness``: which URL is stale and why
``letters``         what was set aside, until a person decides
=================== ===========================================================================

**Rows**

================== ============================================================================
table              a row is
================== ============================================================================
``directory``      one directory URL of one target, with how many of its needs are ready
``need``           one stale URL (directory + name) and scope, all its changes merged
``attempt_item``   one request item; kept after its end as the audit of what was sent and why
``attempt_group``  items to which the same happened so far: their state, times, task ids, and what each is charged
``attempt``        a view: each item with what it shares; for reading
``ledger``         one account's allowance in one window: limit, spent, held, booked by backfills
``tree``           one directory of a storage, with how many objects the index knows in it
``object``         one object as the storage was last known to hold it: the index
``tombstone``      a key deleted lately, so that a running scan cannot bring it back
``pending_delete`` a deleted subtree whose index rows are still being removed
``dead_letter``    a message or key that was set aside, with its reason; bounded, see ``letters.py``
``order_token``    the newest event of a key, and the newest that needs cover; see ``filtering.py``
``message``        one message of a queue whose changes are all recorded; bounded, see ``filtering.py``
``dropped``        how many of these were dropped for lack of room, by source and kind
``account``        what keeps an account from sending, and what it deferred, as its sender reported last
``source``         what each source reported last
================== ============================================================================

**Sequences.** Every recorded batch takes the next number of a store-wide sequence and writes it to
the index rows and needs that it touches. The batch is committed before it is acknowledged. An
attempt's *watermark* is the sequence at the moment its quota is held: everything recorded up to
then happened before the request is written, so the CDN fetches it. What is recorded later has a
higher sequence and outlives the attempt. No clock decides any of this.

Where several instances record at once it is enough that (1) a number is taken after the changes were received, (2)
numbers are handed out in one order to all sessions (``SEQUENCE … CACHE 1``, checked at each start), (3) a row keeps the
greatest number of its merged changes, and (4) the watermark is the last number handed out, committed or not. A row up
to the watermark then holds changes only that were received before the request, in whatever order they commit; one that
commits after its need was settled makes it again: a refresh more, none less. But a commit may be late: that the number
has not grown does not say that nothing came. So work is found by its rows, and what has no time by a *revision*, which
is a row too. What makes a need takes no lock; what leaves one out, removes or settles one decides under a row lock.

**A need's life**

::

              change                    due                     held
    (nothing) ──────▶ WAITING ────────────────▶ READY ───────────────────▶ ATTEMPTED
                       ▲   ▲  quiet or cap over  ▲ │ deferred: stays         │ │ │
                       │   └── change ───────────┼─┘ READY, with reasons     │ │ │
                       │                         └── failed, back-off over ──┘ │ │
                       ├────────────── change during flight ───────────────────┘ │
                       ├── change ── UNCONFIRMED ◀── task never ended ───────────┤
                       │             PARKED ◀─────── CDN refuses this URL ───────┤
                       │                             complete, not above W ──────▼
                       └─────────────────────────────────────────────────── (settled)

A file attempt marks its need ``ATTEMPTED``. A directory attempt marks nothing: it stores its URL
and watermark, and ``covers`` finds what lies below it, so that leasing ten million needs is one
row. Once it is complete its needs are *swept* in slices; until the sweep is over they count as
settled. An *open* need (unfinished write, or not yet at the origin) is covered by nothing; when
its wait is over it takes a new sequence, above the watermark of every attempt made meanwhile.

A need that only a *backfill* requests has a lower *priority*, until the first live change of its URL. It
is planned, reserved and sent behind everything live, and little is reserved at a time, since reserved
quota is out of reach for what changes next. What a backfill *admitted* to its share of the quota is
planned already: it is sent as it is, one request for each need.

**Groups of attempts.** One request holds up to a thousand URLs, which are reserved, written, accepted and nearly always
end together. So their state is one row, and each step of the request writes that row and not a thousand. Nothing else
follows from being in a group: a step for some of its attempts splits the group before (``own_groups``), in the same
transaction, so that a refused URL is parked, a failed one backs off and a batch is halved without the others. A group
is never put together again; it ends with its last attempt.

**An attempt's life, and what its quota does**

::

             ┌ definite refusal, crash, reset of the day: refund; gone, needs READY again
    HELD ────┤
    held +1  └▶ SENDING ──── answer: accepted ────────▶ ACCEPTED ── task complete ──▶ COMPLETE
                (durable     held -1, spent +1            │   │                       (settle)
                before the    ▲                           │   └─ task failed ───────▶ FAILED
                request)      │ found: adopt              │      back-off, then READY
                  │  no       │                           └─ an hour unfinished ────▶ UNCONFIRMED
                  ▼  answer   │
                UNKNOWN ──────┤
                 stays held   ├ surely absent, or may be repeated: refund; gone, needs READY again
                              └ cannot be answered: spent; FAILED, needs READY again

``HELD``           and ``SENDING`` belong to the owner that made them. A new owner finds what the last one
left: ``HELD`` is refunded (nothing was written), ``SENDING`` turns ``UNKNOWN`` (it may have been).
``ACCEPTED``, ``UNKNOWN`` and ``UNCONFIRMED`` never expire by age. With ``SENDING`` the attempts of a request get its
*token*, by which a CDN that knows tokens recognizes it when it is sent again.

**The ledger's rules**

1. Units of every allowance that an attempt's kind spends are held in the transaction that makes it, or none:
   ``spent + held + units <= limit`` for each. Where a window rolls, the sum of its rows counts. Kinds that share an
   allowance are taken one after the other. A kind that no allowance names holds nothing. Of a window that counts no
   row is removed, however short the history that is kept.
2. Each unit leaves ``held`` once: to ``spent`` or refunded, in the transaction that moves the
   attempt, booked in the window in which it was held. No request is written in the seconds around a
   reset, nor one that was held before it, so that window is also the CDN's. A rolling window counts a day more
   than its length: never less than a CDN that counts by seconds.
3. The live quota is read while nothing is being sent. It corrects downward at once: what the CDN
   counts beyond ``spent`` and the unknown units was spent by others. Upward only when two reads
   agree and nothing was in flight or unknown from the first to the second; and never below what the
   CDN's answers accepted: only units that were presumed, or inferred from its task list, are given up.
4. A limit comes from the live quota, until then from the target. Money is computed from units, and never kept.

**What survives what.** SIGKILL and power loss: everything committed. A full disk: the commit fails
as a whole, it is not acknowledged, deliveries stop and status says so. A corrupt, foreign or newer
file: refused, never overwritten. A lost file: the first scan seeds the index again; what was stale and unsent
is unknown, and a backfill finds it.
"""

from __future__ import annotations

from listener.refresh import NeedInput
from listener.store.store import Store, open_store

__all__ = ["NeedInput", "Store", "open_store"]
