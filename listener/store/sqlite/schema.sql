-- The page in __init__.py says what a row is; migrations.py has the version and the steps to it.
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sequence INTEGER NOT NULL,          -- the highest sequence given out
  created_at REAL NOT NULL,
  clean INTEGER NOT NULL DEFAULT 1    -- 0 while an owner works: found 0 at start, the last one crashed
);

CREATE TABLE target (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);

CREATE TABLE directory (
  id INTEGER PRIMARY KEY,
  target INTEGER NOT NULL REFERENCES target (id),
  url TEXT NOT NULL,                  -- ends with "/"
  ready INTEGER NOT NULL DEFAULT 0,   -- needs in state READY; kept by the triggers below and needs.count_ready
  last_sequence INTEGER NOT NULL DEFAULT 0, -- the highest that one of its READY needs ever had
  UNIQUE (target, url)
);
CREATE INDEX directory_ready ON directory (target) WHERE ready > 0;

CREATE TABLE need (
  directory INTEGER NOT NULL REFERENCES directory (id),
  name TEXT NOT NULL,                 -- the rest of the URL, query included; "" is the directory's own URL
  scope INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  stale_since REAL NOT NULL,
  window_first REAL NOT NULL,         -- the first change after the last attempt; once READY: no change is newer
  later_since REAL,                   -- the first change after the attempt under way: stale_since once that is complete
  due_at REAL,                        -- while WAITING
  state INTEGER NOT NULL,
  open INTEGER NOT NULL,              -- 1: the write is unfinished; 2: the origin does not have it before due_at
  needs_force INTEGER NOT NULL DEFAULT 0,
  asked INTEGER NOT NULL DEFAULT 0,   -- a person asked for it: no pacing
  urgent INTEGER NOT NULL DEFAULT 0,  -- and may have the reserve
  attempt INTEGER,                    -- while ATTEMPTED or UNCONFIRMED
  reason TEXT,                        -- why it is PARKED; why it is urgent
  priority INTEGER NOT NULL DEFAULT 0, -- of listener.refresh.Priority: above 0 only a backfill requests it
  birth INTEGER,                      -- the object that was not known before its first change made this need: its mark
  PRIMARY KEY (directory, name, scope)
) WITHOUT ROWID;
CREATE INDEX need_due ON need (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX need_ready ON need (directory, stale_since) WHERE state = 1;
CREATE INDEX need_attempt ON need (attempt) WHERE attempt IS NOT NULL;
CREATE INDEX need_other ON need (directory, scope) WHERE state = 1 AND scope > 0;
CREATE INDEX need_stubborn ON need (directory) WHERE state = 1 AND needs_force = 1;
CREATE INDEX need_aside ON need (state, stale_since) WHERE state >= 3;
CREATE INDEX need_asked ON need (state) WHERE asked > 0;
CREATE INDEX need_backfill ON need (directory, priority) WHERE state = 1 AND priority > 0;

CREATE TRIGGER need_ready_insert AFTER INSERT ON need WHEN NEW.state = 1
BEGIN UPDATE directory SET ready = ready + 1, last_sequence = max(last_sequence, NEW.sequence) WHERE id = NEW.directory; END;
CREATE TRIGGER need_ready_delete AFTER DELETE ON need WHEN OLD.state = 1
BEGIN UPDATE directory SET ready = ready - 1 WHERE id = OLD.directory; END;
CREATE TRIGGER need_ready_update AFTER UPDATE OF state ON need
-- Needs become due, and are reserved, by the thousand: whoever writes that counts it (needs.count_ready).
WHEN ((OLD.state = 1) <> (NEW.state = 1) OR (NEW.state = 1 AND NEW.sequence > OLD.sequence))
  AND NOT (OLD.state = 0 AND NEW.state = 1) AND NEW.state <> 2
BEGIN
  UPDATE directory SET ready = ready + (NEW.state = 1) - (OLD.state = 1),
    last_sequence = CASE WHEN NEW.state = 1 THEN max(last_sequence, NEW.sequence) ELSE last_sequence END
  WHERE id = NEW.directory;
END;

CREATE TABLE attempt_group (          -- attempts of one host to which the same happened so far, since one request has many
  id INTEGER PRIMARY KEY,
  target INTEGER NOT NULL REFERENCES target (id),
  kind TEXT NOT NULL,
  force INTEGER NOT NULL,
  account TEXT NOT NULL,
  window_start INTEGER NOT NULL,      -- of the first of their charges, for programs of version 15
  watermark INTEGER NOT NULL,
  created_at REAL NOT NULL,
  state TEXT NOT NULL,
  held INTEGER NOT NULL,              -- 1 while what they are charged stands in the ledger's held
  active INTEGER NOT NULL DEFAULT 1,  -- 0: history; nothing depends on it any more
  task_id TEXT,
  sent_at REAL,
  accepted_at REAL,
  finished_at REAL,
  next_look_at REAL,                  -- ACCEPTED, UNKNOWN, UNCONFIRMED: when to ask; FAILED: when its back-off ends
  looks INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '',
  token TEXT NOT NULL DEFAULT '',     -- names the request they were sent in, to the CDN; one for a request
  charges TEXT                        -- what each takes, as JSON: [[allowance, window, units]]; NULL: version 15 made them
);
CREATE INDEX attempt_group_due ON attempt_group (state, next_look_at) WHERE active = 1;
CREATE INDEX attempt_group_flying ON attempt_group (watermark) WHERE active = 1 AND kind = 'directory';
CREATE INDEX attempt_group_history ON attempt_group (finished_at) WHERE active = 0;
CREATE INDEX attempt_group_created ON attempt_group (created_at);

CREATE TABLE attempt_item (           -- what an attempt shares with no other
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  group_id INTEGER NOT NULL REFERENCES attempt_group (id),
  url TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 1,
  stale_since REAL,
  covered INTEGER NOT NULL DEFAULT 1, -- needs that it covered when it was made
  urgent INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 0, -- as of its need
  reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX attempt_item_group ON attempt_item (group_id);
CREATE INDEX attempt_item_url ON attempt_item (url);

CREATE VIEW attempt AS                -- for reading; never on the right of a LEFT JOIN, where SQLite would copy it first
SELECT i.id, i.group_id, g.target, g.kind, i.url, g.force, g.watermark, g.state, g.account, g.window_start, g.held,
  g.task_id, g.created_at, g.sent_at, g.accepted_at, g.finished_at, g.next_look_at, g.looks, i.tries, i.stale_since,
  i.covered, i.urgent, g.active, i.reason, g.error, i.priority
FROM attempt_item i JOIN attempt_group g ON g.id = i.group_id;

CREATE TABLE ledger (
  account TEXT NOT NULL,
  kind TEXT NOT NULL,                 -- the allowance's name; version 15, which goes on meanwhile, knew only kinds
  window_start INTEGER NOT NULL,      -- seconds since the epoch
  quota INTEGER NOT NULL CHECK (quota >= 0),
  spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),       -- by us, presumed units included
  presumed INTEGER NOT NULL DEFAULT 0 CHECK (presumed >= 0), -- of these, units that no answer could settle
  others INTEGER NOT NULL DEFAULT 0,  -- what the live quota says beyond that; negative: presumed, but not spent
  held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  moves INTEGER NOT NULL DEFAULT 0,   -- raised whenever a unit is held or leaves held
  read_remaining INTEGER,             -- the last live reading, for the rule of two that agree
  read_moves INTEGER,
  read_at REAL,
  share_booked INTEGER NOT NULL DEFAULT 0 CHECK (share_booked >= 0), -- by backfills that have a share of the window
  PRIMARY KEY (account, kind, window_start)
) WITHOUT ROWID;

CREATE TABLE root (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  seeded INTEGER NOT NULL DEFAULT 0,
  used_at REAL                        -- when a configured source had it last, as upkeep saw it
);

CREATE TABLE tree (
  id INTEGER PRIMARY KEY,
  root INTEGER NOT NULL REFERENCES root (id),
  path BLOB NOT NULL,                 -- "" or ends with "/"
  objects INTEGER NOT NULL DEFAULT 0, -- objects directly in it
  UNIQUE (root, path)
);

CREATE TABLE object (
  tree INTEGER NOT NULL REFERENCES tree (id),
  name BLOB NOT NULL,
  size_bytes INTEGER,
  mtime_ns INTEGER,
  ctime_ns INTEGER,
  inode INTEGER,
  etag TEXT,
  sequence INTEGER NOT NULL,
  access INTEGER,                     -- who may read it, by the modes on its path; 0: everybody; NULL: not known
  PRIMARY KEY (tree, name)
) WITHOUT ROWID;

CREATE TABLE tombstone (              -- keys deleted of late
  root INTEGER NOT NULL REFERENCES root (id),
  key BLOB NOT NULL,
  below INTEGER NOT NULL,             -- 1: everything below the key
  sequence INTEGER NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (root, key, below)
) WITHOUT ROWID;

CREATE TABLE pending_delete (         -- subtrees whose index rows are being removed, in slices
  root INTEGER NOT NULL REFERENCES root (id),
  prefix BLOB NOT NULL,
  after BLOB NOT NULL DEFAULT x'',    -- the directory at which the last slice ended
  sequence INTEGER NOT NULL,          -- rows up to it go
  PRIMARY KEY (root, prefix)
) WITHOUT ROWID;

CREATE TABLE dead_letter (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  source TEXT NOT NULL,
  kind TEXT NOT NULL,                 -- "key" or "message"
  digest BLOB NOT NULL,               -- SHA-256 of the whole subject
  subject BLOB NOT NULL,              -- the key, or where the message came from; of a long one the beginning
  reason TEXT NOT NULL,
  body BLOB,
  UNIQUE (digest, source, kind)
);
CREATE INDEX dead_letter_kind ON dead_letter (kind);
CREATE INDEX dead_letter_source ON dead_letter (source, kind);
CREATE INDEX dead_letter_body ON dead_letter (length(body)) WHERE body IS NOT NULL;

CREATE TABLE dropped (                -- what was dropped of them for lack of room
  source TEXT NOT NULL,
  kind TEXT NOT NULL,
  letters INTEGER NOT NULL,
  bodies INTEGER NOT NULL,
  last_at REAL NOT NULL,
  PRIMARY KEY (source, kind)
) WITHOUT ROWID;

CREATE TABLE account (                -- what each account's sender reported last, for the status
  name TEXT PRIMARY KEY,
  problem TEXT NOT NULL,              -- what keeps it from sending; "" while nothing does
  remedy TEXT NOT NULL,
  since REAL,
  until REAL,                         -- when it is tried again
  deferred TEXT NOT NULL,             -- the oldest deferrals, as JSON
  told_at REAL NOT NULL,
  spenders TEXT NOT NULL DEFAULT '[]' -- who spent much of its quota within an hour, as JSON
) WITHOUT ROWID;

CREATE TABLE source (
  name TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  ready INTEGER NOT NULL,
  last_event_at REAL,
  lost_events INTEGER NOT NULL,
  rescans INTEGER NOT NULL,
  detail TEXT NOT NULL,
  figures TEXT NOT NULL,
  told_at REAL NOT NULL,
  trouble_since REAL                  -- since when its detail is not empty
) WITHOUT ROWID;

CREATE TABLE backfill (
  id TEXT PRIMARY KEY,                -- what is listed and how, as a digest
  after BLOB NOT NULL,                -- the last key that is durable
  listed INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  updated_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE control (                -- overrides: what is to be left alone for a while
  kind TEXT NOT NULL,                 -- "hold", "pause" or "approval"
  target TEXT NOT NULL,               -- "" for every target
  prefix TEXT NOT NULL,               -- of the URLs it is about; "" for every one
  until REAL,                         -- seconds since the epoch; NULL until it is taken back
  reason TEXT NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (kind, target, prefix)
) WITHOUT ROWID;

CREATE TABLE audit (                  -- manual actions
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  count INTEGER NOT NULL,             -- needs that it touched
  reason TEXT NOT NULL
);

CREATE TABLE order_token (            -- of a key's events; filtering.py draws them
  root INTEGER NOT NULL REFERENCES root (id),
  key BLOB NOT NULL,
  covered TEXT NOT NULL,              -- events up to it are old news
  newest TEXT NOT NULL,               -- of all events
  etag TEXT,                          -- the content of both, while that is sure
  sequence INTEGER NOT NULL,          -- with which the index learned of "covered"
  at REAL NOT NULL,
  PRIMARY KEY (root, key)
) WITHOUT ROWID;
CREATE INDEX order_token_at ON order_token (at);

CREATE TABLE message (                -- messages of queues that were recorded; filtering.py bounds them
  number INTEGER PRIMARY KEY,         -- the order of "at"
  digest BLOB NOT NULL UNIQUE,        -- of the message's id
  at REAL NOT NULL
);

CREATE TABLE suppressed (             -- changes for which no refresh was made; filtering.py bounds them
  id INTEGER PRIMARY KEY,             -- the order of "at"
  url TEXT NOT NULL UNIQUE,
  times INTEGER NOT NULL,
  at REAL NOT NULL,                   -- of the last
  reason TEXT NOT NULL                -- likewise
);
