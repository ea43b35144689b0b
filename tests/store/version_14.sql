-- A state file of format 14: what a daemon of format 13 wrote, brought up by a daemon of format 14.
BEGIN TRANSACTION;
CREATE TABLE account (
  name TEXT PRIMARY KEY,
  problem TEXT NOT NULL,
  remedy TEXT NOT NULL,
  since REAL,
  until REAL,
  deferred TEXT NOT NULL,
  told_at REAL NOT NULL,
  spenders TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
CREATE TABLE attempt_group (
  id INTEGER PRIMARY KEY,
  target INTEGER NOT NULL REFERENCES target (id),
  kind TEXT NOT NULL,
  force INTEGER NOT NULL,
  account TEXT NOT NULL,
  window_start INTEGER NOT NULL,
  watermark INTEGER NOT NULL,
  created_at REAL NOT NULL,
  state TEXT NOT NULL,
  held INTEGER NOT NULL,
  active INTEGER NOT NULL DEFAULT 1,
  task_id TEXT,
  sent_at REAL,
  accepted_at REAL,
  finished_at REAL,
  next_look_at REAL,
  looks INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT ''
);
INSERT INTO "attempt_group" VALUES(1,1,'directory',0,'main',1799942400,4,1800000122.0,'accepted',0,1,'task-10',1800000122.0,1800000122.0,NULL,1800000182.0,0,'');
INSERT INTO "attempt_group" VALUES(2,1,'file',0,'main',1799942400,4,1800000120.0,'accepted',0,1,'task-1',1800000120.0,1800000120.0,NULL,1800000180.0,0,'');
INSERT INTO "attempt_group" VALUES(3,1,'file',0,'main',1799942400,4,1800000120.0,'complete',0,0,'task-1',1800000120.0,1800000120.0,1800000120.0,NULL,0,'');
INSERT INTO "attempt_group" VALUES(4,1,'file',0,'main',1799942400,4,1800000121.0,'unknown',1,1,NULL,1800000121.0,NULL,NULL,1800000151.0,0,'no answer');
INSERT INTO "attempt_group" VALUES(5,1,'file',1,'main',1799942400,4,1800000122.0,'failed',0,0,NULL,1800000122.0,NULL,1800000122.0,NULL,0,'refused');
INSERT INTO "attempt_group" VALUES(6,1,'file',1,'main',1799942400,4,1800000122.0,'failed',0,1,'task-8',1800000122.0,1800000122.0,1800000122.0,1800000182.0,0,'failed');
INSERT INTO "attempt_group" VALUES(7,1,'file',1,'main',1799942400,4,1800000122.0,'unconfirmed',0,1,'task-7',1800000122.0,1800000122.0,NULL,1800001922.0,0,'task never ended');
INSERT INTO "attempt_group" VALUES(8,1,'file',1,'main',1799942400,4,1800000123.0,'held',1,1,NULL,NULL,NULL,NULL,NULL,0,'');
INSERT INTO "attempt_group" VALUES(9,1,'file',1,'main',1799942400,4,1800000123.0,'sending',1,1,NULL,1800000123.0,NULL,NULL,NULL,0,'');
CREATE TABLE attempt_item (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  group_id INTEGER NOT NULL REFERENCES attempt_group (id),
  url TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 1,
  stale_since REAL,
  covered INTEGER NOT NULL DEFAULT 1,
  urgent INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT ''
);
INSERT INTO "attempt_item" VALUES(1,3,'https://www.example.com/done',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(2,2,'https://www.example.com/a',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(3,2,'https://www.example.com/b',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(4,2,'https://www.example.com/c',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(5,4,'https://www.example.com/u1',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(6,4,'https://www.example.com/u2',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(7,7,'https://www.example.com/d',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(8,6,'https://www.example.com/e',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(9,5,'https://www.example.com/f',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(10,1,'https://www.example.com/dir/',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(11,9,'https://www.example.com/g',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(12,8,'https://www.example.com/h',1,0.0,1,0,0,'test');
INSERT INTO "attempt_item" VALUES(13,8,'https://www.example.com/w1',1,0.0,1,0,0,'test');
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  count INTEGER NOT NULL,
  reason TEXT NOT NULL
);
CREATE TABLE backfill (
  id TEXT PRIMARY KEY,
  after BLOB NOT NULL,
  listed INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE control (
  kind TEXT NOT NULL,
  target TEXT NOT NULL,
  prefix TEXT NOT NULL,
  until REAL,
  reason TEXT NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (kind, target, prefix)
) WITHOUT ROWID;
CREATE TABLE dead_letter (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  source TEXT NOT NULL,
  kind TEXT NOT NULL,
  digest BLOB NOT NULL,
  subject BLOB NOT NULL,
  reason TEXT NOT NULL,
  body BLOB,
  UNIQUE (digest, source, kind)
);
CREATE TABLE directory (
  id INTEGER PRIMARY KEY,
  target INTEGER NOT NULL REFERENCES target (id),
  url TEXT NOT NULL,
  ready INTEGER NOT NULL DEFAULT 0,
  last_sequence INTEGER NOT NULL DEFAULT 0,
  UNIQUE (target, url)
);
INSERT INTO "directory" VALUES(1,1,'https://www.example.com/',2,3);
INSERT INTO "directory" VALUES(2,1,'https://www.example.com/dir/',2,1);
CREATE TABLE dropped (
  source TEXT NOT NULL,
  kind TEXT NOT NULL,
  letters INTEGER NOT NULL,
  bodies INTEGER NOT NULL,
  last_at REAL NOT NULL,
  PRIMARY KEY (source, kind)
) WITHOUT ROWID;
CREATE TABLE ledger (
  account TEXT NOT NULL,
  kind TEXT NOT NULL,
  window_start INTEGER NOT NULL,
  quota INTEGER NOT NULL CHECK (quota >= 0),
  spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
  presumed INTEGER NOT NULL DEFAULT 0 CHECK (presumed >= 0),
  others INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  moves INTEGER NOT NULL DEFAULT 0,
  read_remaining INTEGER,
  read_moves INTEGER,
  read_at REAL,
  share_booked INTEGER NOT NULL DEFAULT 0 CHECK (share_booked >= 0),
  PRIMARY KEY (account, kind, window_start)
) WITHOUT ROWID;
INSERT INTO "ledger" VALUES('main','directory',1799942400,10,1,0,0,0,2,NULL,NULL,NULL,0);
INSERT INTO "ledger" VALUES('main','file',1799942400,100,6,0,0,5,15,NULL,NULL,NULL,0);
CREATE TABLE message (
  number INTEGER PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  at REAL NOT NULL
);
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sequence INTEGER NOT NULL,
  created_at REAL NOT NULL,
  clean INTEGER NOT NULL DEFAULT 1
);
INSERT INTO "meta" VALUES(1,4,1.79597056199664759632e+09,1);
CREATE TABLE need (
  directory INTEGER NOT NULL REFERENCES directory (id),
  name TEXT NOT NULL,
  scope INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  stale_since REAL NOT NULL,
  window_first REAL NOT NULL,
  later_since REAL,
  due_at REAL,
  state INTEGER NOT NULL,
  open INTEGER NOT NULL,
  needs_force INTEGER NOT NULL DEFAULT 0,
  asked INTEGER NOT NULL DEFAULT 0,
  urgent INTEGER NOT NULL DEFAULT 0,
  attempt INTEGER,
  reason TEXT,
  priority INTEGER NOT NULL DEFAULT 0,
  birth INTEGER,
  PRIMARY KEY (directory, name, scope)
) WITHOUT ROWID;
INSERT INTO "need" VALUES(1,'a',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,2,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'b',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,3,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'c',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,4,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'d',0,1,1800000000.0,1800000060.0,NULL,NULL,4,0,0,0,0,7,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'e',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,8,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'f',0,1,1800000000.0,1800000060.0,NULL,NULL,3,0,0,0,0,NULL,'refused',0,NULL);
INSERT INTO "need" VALUES(1,'g',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,11,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'h',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,12,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'p',0,1,1800000000.0,1800000060.0,NULL,NULL,1,0,0,0,0,NULL,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'u1',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,5,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'u2',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,6,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'w1',0,1,1800000000.0,1800000060.0,NULL,NULL,2,0,0,0,0,13,NULL,0,NULL);
INSERT INTO "need" VALUES(1,'w2',0,1,1800000000.0,1800000060.0,NULL,NULL,1,0,0,0,0,NULL,NULL,0,NULL);
INSERT INTO "need" VALUES(2,'x',0,1,1800000000.0,1800000060.0,NULL,NULL,1,0,0,0,0,NULL,NULL,0,NULL);
INSERT INTO "need" VALUES(2,'y',0,1,1800000000.0,1800000060.0,NULL,NULL,1,0,0,0,0,NULL,NULL,0,NULL);
CREATE TABLE object (
  tree INTEGER NOT NULL REFERENCES tree (id),
  name BLOB NOT NULL,
  size_bytes INTEGER,
  mtime_ns INTEGER,
  ctime_ns INTEGER,
  inode INTEGER,
  etag TEXT,
  sequence INTEGER NOT NULL,
  access INTEGER,
  PRIMARY KEY (tree, name)
) WITHOUT ROWID;
INSERT INTO "object" VALUES(1,X'61',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'62',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'63',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'64',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'646F6E65',1,1000000000,1000000000,1,NULL,3,NULL);
INSERT INTO "object" VALUES(1,X'65',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'66',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'67',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'68',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'70',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'7531',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'7532',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'7731',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(1,X'7732',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(2,X'78',1,1000000000,1000000000,1,NULL,1,NULL);
INSERT INTO "object" VALUES(2,X'79',1,1000000000,1000000000,1,NULL,1,NULL);
CREATE TABLE order_token (
  root INTEGER NOT NULL REFERENCES root (id),
  key BLOB NOT NULL,
  covered TEXT NOT NULL,
  newest TEXT NOT NULL,
  etag TEXT,
  sequence INTEGER NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (root, key)
) WITHOUT ROWID;
CREATE TABLE pending_delete (
  root INTEGER NOT NULL REFERENCES root (id),
  prefix BLOB NOT NULL,
  after BLOB NOT NULL DEFAULT x'',
  sequence INTEGER NOT NULL,
  PRIMARY KEY (root, prefix)
) WITHOUT ROWID;
CREATE TABLE root (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  seeded INTEGER NOT NULL DEFAULT 0,
  used_at REAL
);
INSERT INTO "root" VALUES(1,'www',0,NULL);
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
  trouble_since REAL
) WITHOUT ROWID;
CREATE TABLE suppressed (
  id INTEGER PRIMARY KEY,
  url TEXT NOT NULL UNIQUE,
  times INTEGER NOT NULL,
  at REAL NOT NULL,
  reason TEXT NOT NULL
);
CREATE TABLE target (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);
INSERT INTO "target" VALUES(1,'cdn');
CREATE TABLE tombstone (
  root INTEGER NOT NULL REFERENCES root (id),
  key BLOB NOT NULL,
  below INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (root, key, below)
) WITHOUT ROWID;
CREATE TABLE tree (
  id INTEGER PRIMARY KEY,
  root INTEGER NOT NULL REFERENCES root (id),
  path BLOB NOT NULL,
  objects INTEGER NOT NULL DEFAULT 0,
  UNIQUE (root, path)
);
INSERT INTO "tree" VALUES(1,1,X'',14);
INSERT INTO "tree" VALUES(2,1,X'6469722F',2);
CREATE INDEX directory_ready ON directory (target) WHERE ready > 0;
CREATE INDEX need_due ON need (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX need_ready ON need (directory, stale_since) WHERE state = 1;
CREATE INDEX need_attempt ON need (attempt) WHERE attempt IS NOT NULL;
CREATE INDEX need_other ON need (directory, scope) WHERE state = 1 AND scope > 0;
CREATE INDEX need_stubborn ON need (directory) WHERE state = 1 AND needs_force = 1;
CREATE INDEX need_aside ON need (state, stale_since) WHERE state >= 3;
CREATE INDEX need_asked ON need (state) WHERE asked > 0;
CREATE INDEX need_backfill ON need (directory, priority) WHERE state = 1 AND priority > 0;
CREATE INDEX dead_letter_kind ON dead_letter (kind);
CREATE INDEX dead_letter_source ON dead_letter (source, kind);
CREATE INDEX dead_letter_body ON dead_letter (length(body)) WHERE body IS NOT NULL;
CREATE INDEX order_token_at ON order_token (at);
CREATE INDEX attempt_group_due ON attempt_group (state, next_look_at) WHERE active = 1;
CREATE INDEX attempt_group_flying ON attempt_group (watermark) WHERE active = 1 AND kind = 'directory';
CREATE INDEX attempt_group_history ON attempt_group (finished_at) WHERE active = 0;
CREATE INDEX attempt_group_window ON attempt_group (window_start);
CREATE INDEX attempt_item_group ON attempt_item (group_id);
CREATE INDEX attempt_item_url ON attempt_item (url);
CREATE TRIGGER need_ready_insert AFTER INSERT ON need WHEN NEW.state = 1
BEGIN UPDATE directory SET ready = ready + 1, last_sequence = max(last_sequence, NEW.sequence) WHERE id = NEW.directory; END;
CREATE TRIGGER need_ready_delete AFTER DELETE ON need WHEN OLD.state = 1
BEGIN UPDATE directory SET ready = ready - 1 WHERE id = OLD.directory; END;
CREATE VIEW attempt AS
SELECT i.id, i.group_id, g.target, g.kind, i.url, g.force, g.watermark, g.state, g.account, g.window_start, g.held,
  g.task_id, g.created_at, g.sent_at, g.accepted_at, g.finished_at, g.next_look_at, g.looks, i.tries, i.stale_since,
  i.covered, i.urgent, g.active, i.reason, g.error, i.priority
FROM attempt_item i JOIN attempt_group g ON g.id = i.group_id;
CREATE TRIGGER need_ready_update AFTER UPDATE OF state ON need

WHEN ((OLD.state = 1) <> (NEW.state = 1) OR (NEW.state = 1 AND NEW.sequence > OLD.sequence))
  AND NOT (OLD.state = 0 AND NEW.state = 1) AND NEW.state <> 2
BEGIN
  UPDATE directory SET ready = ready + (NEW.state = 1) - (OLD.state = 1),
    last_sequence = CASE WHEN NEW.state = 1 THEN max(last_sequence, NEW.sequence) ELSE last_sequence END
  WHERE id = NEW.directory;
END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('attempt_item',14);
COMMIT;
PRAGMA application_id = 1128549964;
PRAGMA user_version = 14;
