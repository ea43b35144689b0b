-- What only PostgreSQL needs. Tables and indexes come from ../sqlite/schema.sql; schema.py has the few that differ.
CREATE TABLE {schema}.schema_version (
  id bigint PRIMARY KEY CHECK (id = 1),
  version bigint NOT NULL,
  min_program bigint NOT NULL,            -- programs of an older version must not use it any more
  system_identifier bigint NOT NULL       -- of the cluster in which it was made
);

-- CACHE 1: numbers are handed out in their order to all sessions. The store's page says what depends on it.
CREATE SEQUENCE {schema}.change_number AS bigint CACHE 1;

-- A transaction makes far fewer attempts and groups: it takes a block of ids, so that two leaders never take the same.
CREATE SEQUENCE {schema}.attempt_number AS bigint INCREMENT 4096 CACHE 1;
CREATE SEQUENCE {schema}.group_number AS bigint INCREMENT 4096 CACHE 1;
ALTER TABLE {schema}.attempt_item ALTER COLUMN id DROP IDENTITY;
ALTER TABLE {schema}.attempt_item ALTER COLUMN id SET DEFAULT nextval('{schema}.attempt_number');
ALTER TABLE {schema}.attempt_group ALTER COLUMN id DROP IDENTITY;
ALTER TABLE {schema}.attempt_group ALTER COLUMN id SET DEFAULT nextval('{schema}.group_number');

CREATE TABLE {schema}.installation (
  id bigint PRIMARY KEY CHECK (id = 1),
  created_at double precision NOT NULL,
  clean bigint NOT NULL DEFAULT 1,
  identity uuid NOT NULL DEFAULT gen_random_uuid(),  -- of this schema: one that is made again has a count of its own
  revision bigint NOT NULL DEFAULT 1      -- a row, and no sequence: who sees the number sees what was changed with it
) WITH (fillfactor = 10);

-- How many transactions each instance has committed, counted in each of them: fewer than were confirmed are a loss.
CREATE TABLE {schema}.instance_count (
  name text COLLATE "C" PRIMARY KEY,
  recorded bigint NOT NULL,
  trouble text COLLATE "C" NOT NULL DEFAULT ''    -- what the instance reports of commits that were lost
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

-- Counts a transaction; fails where fewer are there than were confirmed, so that nothing is committed on top of a loss:
-- what a process remembers, such as ids of rows, may be wrong then.
CREATE FUNCTION {schema}.count_commit(instance text, confirmed bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  total bigint;
BEGIN
  INSERT INTO {schema}.instance_count AS own (name, recorded) VALUES (instance, 1)
    ON CONFLICT (name) DO UPDATE SET recorded = own.recorded + 1 RETURNING recorded INTO total;
  IF total <= confirmed THEN
    RAISE EXCEPTION 'of % commits of %, % are there', confirmed, instance, total - 1 USING ERRCODE = 'CDN01';
  END IF;
  RETURN total;
END $$;

-- last_value is the last number handed out, by whichever session, committed or not: the watermark.
CREATE VIEW {schema}.meta AS
SELECT id, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {schema}.change_number) AS sequence,
  created_at, clean FROM {schema}.installation;

-- An index on due_at would be written with each change of a waiting need, also one with due_at in its condition: this one
-- is with each fifth second. Queries name slot with due_at.
ALTER TABLE {schema}.need ADD COLUMN slot bigint GENERATED ALWAYS AS (floor(due_at / 5)) STORED;
CREATE INDEX need_due ON {schema}.need (slot) WHERE slot IS NOT NULL;

ALTER TABLE {schema}.need SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {schema}.object SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE {schema}.order_token SET (fillfactor = 70);
ALTER TABLE {schema}.directory SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE {schema}.tree SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE {schema}.ledger SET (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

-- Who leads which account; leases.py says how, and why it is safe.
CREATE TABLE {schema}.instance (          -- the heartbeat of each instance
  name text COLLATE "C" PRIMARY KEY,
  incarnation bigint NOT NULL,            -- raised by each registration: leases of an earlier one are free
  until timestamptz NOT NULL,             -- '-infinity': marked as dead, for good
  version text NOT NULL,
  leases text[] COLLATE "C" NOT NULL DEFAULT '{}',  -- those that it can hold, by its configuration
  started_at timestamptz NOT NULL,
  died_at timestamptz                     -- when the heartbeat ended of one that was marked; NULL once it left in order
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE {schema}.lease (
  name text COLLATE "C" PRIMARY KEY,      -- an account, or "task:" and what is done for all of them
  instance text COLLATE "C",              -- who holds it; NULL: nobody
  incarnation bigint,
  term bigint NOT NULL DEFAULT 0          -- raised whenever the holder changes
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE {schema}.inherited (         -- attempts that another leader was sending when its term ended
  attempt bigint PRIMARY KEY,
  unknown_since timestamptz NOT NULL      -- that the CDN does not list them is believed some time after this only
);

CREATE TABLE {schema}.late_answer (       -- what the CDN accepted after the term of its sender had ended
  attempt bigint NOT NULL,
  account text COLLATE "C" NOT NULL,
  term bigint NOT NULL,
  kind text COLLATE "C" NOT NULL,
  window_start bigint NOT NULL,
  task_id text COLLATE "C" NOT NULL,
  at timestamptz NOT NULL,
  charges text COLLATE "C",               -- as those of an attempt_group
  PRIMARY KEY (attempt, task_id)
);
CREATE INDEX late_answer_account ON {schema}.late_answer (account);

CREATE FUNCTION {schema}.object_name(url_name text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(string_agg(
    CASE WHEN part[1] ~ '^%[0-9A-Fa-f]{2}$' THEN decode(substr(part[1], 2), 'hex') ELSE convert_to(part[1], 'UTF8') END,
    ''::bytea ORDER BY number), ''::bytea)
  FROM regexp_matches(split_part(url_name, '?', 1), '%[0-9A-Fa-f]{2}|[^%]+|%', 'g') WITH ORDINALITY AS parts (part, number)
$$;

-- directory.ready and .last_sequence, once for each statement; directories in the order of their ids.
CREATE FUNCTION {schema}.count_ready() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  those bigint[];
  more bigint[];
  last bigint[];
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT array_agg(directory), array_agg(number), array_agg(sequence) INTO those, more, last FROM (
      SELECT directory, count(*) AS number, max(sequence) AS sequence FROM added WHERE state = 1
      GROUP BY directory ORDER BY directory) AS changed;
  ELSIF TG_OP = 'DELETE' THEN
    SELECT array_agg(directory), array_agg(number), array_agg(0) INTO those, more, last FROM (
      SELECT directory, -count(*) AS number FROM removed WHERE state = 1 GROUP BY directory ORDER BY directory) AS changed;
  ELSE
    SELECT array_agg(directory), array_agg(number), array_agg(sequence) INTO those, more, last FROM (
      SELECT directory, sum(one) AS number, max(sequence) AS sequence FROM (
        SELECT directory, 1 AS one, sequence FROM added WHERE state = 1
        UNION ALL SELECT directory, -1, 0 FROM removed WHERE state = 1) AS either
      GROUP BY directory ORDER BY directory) AS changed;
  END IF;
  IF those IS NOT NULL THEN
    PERFORM 1 FROM {schema}.directory WHERE id = ANY (those) ORDER BY id FOR NO KEY UPDATE;
    UPDATE {schema}.directory AS d SET ready = d.ready + changed.number,
      last_sequence = greatest(d.last_sequence, changed.sequence)
    FROM unnest(those, more, last) AS changed (directory, number, sequence)
    WHERE d.id = changed.directory AND (changed.number <> 0 OR changed.sequence > d.last_sequence);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER need_ready_insert AFTER INSERT ON {schema}.need REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_ready();
CREATE TRIGGER need_ready_delete AFTER DELETE ON {schema}.need REFERENCING OLD TABLE AS removed
  FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_ready();
CREATE TRIGGER need_ready_update AFTER UPDATE ON {schema}.need REFERENCING OLD TABLE AS removed NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_ready();

-- Copies of one tree on several instances (replicas = "each"); copies.py in the store's folder has the rule.
CREATE TABLE {schema}.pending_copy (      -- for which keys a need waits, and who recorded a change of each meanwhile
  directory bigint NOT NULL,              -- the need, with name and scope; it may be settled
  name text COLLATE "C" NOT NULL,
  scope bigint NOT NULL,
  source text COLLATE "C" NOT NULL,
  path bytea NOT NULL,
  object bytea NOT NULL,                  -- empty for all that is below the path
  instance text COLLATE "C" NOT NULL,
  PRIMARY KEY (directory, name, scope, source, path, object, instance)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE TABLE {schema}.different_copy (    -- keys at which copies differed when the wait was over; bounded
  source text COLLATE "C" NOT NULL,
  path bytea NOT NULL,
  object bytea NOT NULL,
  since double precision NOT NULL,
  PRIMARY KEY (source, path, object)
);
CREATE TABLE {schema}.copy_window (       -- waits in vain, one after the other, in each directory; few are enough
  source text COLLATE "C" NOT NULL,
  path bytea NOT NULL,
  number bigint NOT NULL,
  PRIMARY KEY (source, path)
);
