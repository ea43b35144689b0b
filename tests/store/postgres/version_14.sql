-- The schema as version 14 made it, by pg_dump.

CREATE SCHEMA cdn_listener;

CREATE FUNCTION cdn_listener.count_commit(instance text, confirmed bigint) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
  total bigint;
BEGIN
  INSERT INTO "cdn_listener".instance_count AS own (name, recorded) VALUES (instance, 1)
    ON CONFLICT (name) DO UPDATE SET recorded = own.recorded + 1 RETURNING recorded INTO total;
  IF total <= confirmed THEN
    RAISE EXCEPTION 'of % commits of %, % are there', confirmed, instance, total - 1 USING ERRCODE = 'CDN01';
  END IF;
  RETURN total;
END $$;

CREATE FUNCTION cdn_listener.count_ready() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
    PERFORM 1 FROM "cdn_listener".directory WHERE id = ANY (those) ORDER BY id FOR NO KEY UPDATE;
    UPDATE "cdn_listener".directory AS d SET ready = d.ready + changed.number,
      last_sequence = greatest(d.last_sequence, changed.sequence)
    FROM unnest(those, more, last) AS changed (directory, number, sequence)
    WHERE d.id = changed.directory AND (changed.number <> 0 OR changed.sequence > d.last_sequence);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION cdn_listener.object_name(url_name text) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    AS $_$
  SELECT coalesce(string_agg(
    CASE WHEN part[1] ~ '^%[0-9A-Fa-f]{2}$' THEN decode(substr(part[1], 2), 'hex') ELSE convert_to(part[1], 'UTF8') END,
    ''::bytea ORDER BY number), ''::bytea)
  FROM regexp_matches(split_part(url_name, '?', 1), '%[0-9A-Fa-f]{2}|[^%]+|%', 'g') WITH ORDINALITY AS parts (part, number)
$_$;

CREATE TABLE cdn_listener.account (
    name text NOT NULL COLLATE pg_catalog."C",
    problem text NOT NULL COLLATE pg_catalog."C",
    remedy text NOT NULL COLLATE pg_catalog."C",
    since double precision,
    until double precision,
    deferred text NOT NULL COLLATE pg_catalog."C",
    told_at double precision NOT NULL,
    spenders text DEFAULT '[]'::text NOT NULL COLLATE pg_catalog."C"
);

CREATE SEQUENCE cdn_listener.group_number
    START WITH 1
    INCREMENT BY 4096
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE cdn_listener.attempt_group (
    id bigint DEFAULT nextval('cdn_listener.group_number'::regclass) NOT NULL,
    target bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    force bigint NOT NULL,
    account text NOT NULL COLLATE pg_catalog."C",
    window_start bigint NOT NULL,
    watermark bigint NOT NULL,
    created_at double precision NOT NULL,
    state text NOT NULL COLLATE pg_catalog."C",
    held bigint NOT NULL,
    active bigint DEFAULT 1 NOT NULL,
    task_id text COLLATE pg_catalog."C",
    sent_at double precision,
    accepted_at double precision,
    finished_at double precision,
    next_look_at double precision,
    looks bigint DEFAULT 0 NOT NULL,
    error text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);

CREATE SEQUENCE cdn_listener.attempt_number
    START WITH 1
    INCREMENT BY 4096
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE cdn_listener.attempt_item (
    id bigint DEFAULT nextval('cdn_listener.attempt_number'::regclass) NOT NULL,
    group_id bigint NOT NULL,
    url text NOT NULL COLLATE pg_catalog."C",
    tries bigint DEFAULT 1 NOT NULL,
    stale_since double precision,
    covered bigint DEFAULT 1 NOT NULL,
    urgent bigint DEFAULT 0 NOT NULL,
    priority bigint DEFAULT 0 NOT NULL,
    reason text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);

CREATE VIEW cdn_listener.attempt AS
 SELECT i.id,
    i.group_id,
    g.target,
    g.kind,
    i.url,
    g.force,
    g.watermark,
    g.state,
    g.account,
    g.window_start,
    g.held,
    g.task_id,
    g.created_at,
    g.sent_at,
    g.accepted_at,
    g.finished_at,
    g.next_look_at,
    g.looks,
    i.tries,
    i.stale_since,
    i.covered,
    i.urgent,
    g.active,
    i.reason,
    g.error,
    i.priority
   FROM (cdn_listener.attempt_item i
     JOIN cdn_listener.attempt_group g ON ((g.id = i.group_id)));

CREATE TABLE cdn_listener.audit (
    id bigint NOT NULL,
    at double precision NOT NULL,
    action text NOT NULL COLLATE pg_catalog."C",
    subject text NOT NULL COLLATE pg_catalog."C",
    count bigint NOT NULL,
    reason text NOT NULL COLLATE pg_catalog."C"
);

ALTER TABLE cdn_listener.audit ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.backfill (
    id text NOT NULL COLLATE pg_catalog."C",
    after bytea NOT NULL,
    listed bigint NOT NULL,
    finished bigint NOT NULL,
    updated_at double precision NOT NULL
);

CREATE SEQUENCE cdn_listener.change_number
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE cdn_listener.control (
    kind text NOT NULL COLLATE pg_catalog."C",
    target text NOT NULL COLLATE pg_catalog."C",
    prefix text NOT NULL COLLATE pg_catalog."C",
    until double precision,
    reason text NOT NULL COLLATE pg_catalog."C",
    at double precision NOT NULL
);

CREATE TABLE cdn_listener.copy_window (
    source text NOT NULL COLLATE pg_catalog."C",
    path bytea NOT NULL,
    number bigint NOT NULL
);

CREATE TABLE cdn_listener.dead_letter (
    id bigint NOT NULL,
    at double precision NOT NULL,
    source text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    digest bytea NOT NULL,
    subject bytea NOT NULL,
    reason text NOT NULL COLLATE pg_catalog."C",
    body bytea
);

ALTER TABLE cdn_listener.dead_letter ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.different_copy (
    source text NOT NULL COLLATE pg_catalog."C",
    path bytea NOT NULL,
    object bytea NOT NULL,
    since double precision NOT NULL
);

CREATE TABLE cdn_listener.directory (
    id bigint NOT NULL,
    target bigint NOT NULL,
    url text NOT NULL COLLATE pg_catalog."C",
    ready bigint DEFAULT 0 NOT NULL,
    last_sequence bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE cdn_listener.directory ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.directory_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.dropped (
    source text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    letters bigint NOT NULL,
    bodies bigint NOT NULL,
    last_at double precision NOT NULL
);

CREATE TABLE cdn_listener.inherited (
    attempt bigint NOT NULL,
    unknown_since timestamp with time zone NOT NULL
);

CREATE TABLE cdn_listener.installation (
    id bigint NOT NULL,
    created_at double precision NOT NULL,
    clean bigint DEFAULT 1 NOT NULL,
    identity uuid DEFAULT gen_random_uuid() NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    CONSTRAINT installation_id_check CHECK ((id = 1))
)
WITH (fillfactor='10');

CREATE TABLE cdn_listener.instance (
    name text NOT NULL COLLATE pg_catalog."C",
    incarnation bigint NOT NULL,
    until timestamp with time zone NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    died_at timestamp with time zone
)
WITH (fillfactor='10', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

CREATE TABLE cdn_listener.instance_count (
    name text NOT NULL COLLATE pg_catalog."C",
    recorded bigint NOT NULL,
    trouble text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
)
WITH (fillfactor='10', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

CREATE TABLE cdn_listener.late_answer (
    attempt bigint NOT NULL,
    account text NOT NULL COLLATE pg_catalog."C",
    term bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    window_start bigint NOT NULL,
    task_id text NOT NULL COLLATE pg_catalog."C",
    at timestamp with time zone NOT NULL
);

CREATE TABLE cdn_listener.lease (
    name text NOT NULL COLLATE pg_catalog."C",
    instance text COLLATE pg_catalog."C",
    incarnation bigint,
    term bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

CREATE TABLE cdn_listener.ledger (
    account text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    window_start bigint NOT NULL,
    quota bigint NOT NULL,
    spent bigint DEFAULT 0 NOT NULL,
    presumed bigint DEFAULT 0 NOT NULL,
    others bigint DEFAULT 0 NOT NULL,
    held bigint DEFAULT 0 NOT NULL,
    moves bigint DEFAULT 0 NOT NULL,
    read_remaining bigint,
    read_moves bigint,
    read_at double precision,
    share_booked bigint DEFAULT 0 NOT NULL,
    CONSTRAINT ledger_held_check CHECK ((held >= 0)),
    CONSTRAINT ledger_presumed_check CHECK ((presumed >= 0)),
    CONSTRAINT ledger_quota_check CHECK ((quota >= 0)),
    CONSTRAINT ledger_share_booked_check CHECK ((share_booked >= 0)),
    CONSTRAINT ledger_spent_check CHECK ((spent >= 0))
)
WITH (fillfactor='10', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

CREATE TABLE cdn_listener.message (
    number bigint NOT NULL,
    digest bytea NOT NULL,
    at double precision NOT NULL
);

ALTER TABLE cdn_listener.message ALTER COLUMN number ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.message_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW cdn_listener.meta AS
 SELECT installation.id,
    ( SELECT
                CASE
                    WHEN change_number.is_called THEN change_number.last_value
                    ELSE (0)::bigint
                END AS "case"
           FROM cdn_listener.change_number) AS sequence,
    installation.created_at,
    installation.clean
   FROM cdn_listener.installation;

CREATE TABLE cdn_listener.need (
    directory bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    scope bigint NOT NULL,
    sequence bigint NOT NULL,
    stale_since double precision NOT NULL,
    window_first double precision NOT NULL,
    later_since double precision,
    due_at double precision,
    state bigint NOT NULL,
    open bigint NOT NULL,
    needs_force bigint DEFAULT 0 NOT NULL,
    asked bigint DEFAULT 0 NOT NULL,
    urgent bigint DEFAULT 0 NOT NULL,
    attempt bigint,
    reason text COLLATE pg_catalog."C",
    priority bigint DEFAULT 0 NOT NULL,
    birth bigint,
    slot bigint GENERATED ALWAYS AS (floor((due_at / (5)::double precision))) STORED
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');

CREATE TABLE cdn_listener.object (
    tree bigint NOT NULL,
    name bytea NOT NULL,
    size_bytes bigint,
    mtime_ns bigint,
    ctime_ns bigint,
    inode bigint,
    etag text COLLATE pg_catalog."C",
    sequence bigint NOT NULL,
    access bigint
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02');

CREATE TABLE cdn_listener.order_token (
    root bigint NOT NULL,
    key bytea NOT NULL,
    covered text NOT NULL COLLATE pg_catalog."C",
    newest text NOT NULL COLLATE pg_catalog."C",
    etag text COLLATE pg_catalog."C",
    sequence bigint NOT NULL,
    at double precision NOT NULL
)
WITH (fillfactor='70');

CREATE TABLE cdn_listener.pending_copy (
    directory bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    scope bigint NOT NULL,
    source text NOT NULL COLLATE pg_catalog."C",
    path bytea NOT NULL,
    object bytea NOT NULL,
    instance text NOT NULL COLLATE pg_catalog."C"
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000');

CREATE TABLE cdn_listener.pending_delete (
    root bigint NOT NULL,
    prefix bytea NOT NULL,
    after bytea DEFAULT '\x'::bytea NOT NULL,
    sequence bigint NOT NULL
);

CREATE TABLE cdn_listener.root (
    id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    seeded bigint DEFAULT 0 NOT NULL,
    used_at double precision
);

ALTER TABLE cdn_listener.root ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.root_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.schema_version (
    id bigint NOT NULL,
    version bigint NOT NULL,
    min_program bigint NOT NULL,
    system_identifier bigint NOT NULL,
    CONSTRAINT schema_version_id_check CHECK ((id = 1))
);

CREATE TABLE cdn_listener.source (
    name text NOT NULL COLLATE pg_catalog."C",
    state text NOT NULL COLLATE pg_catalog."C",
    ready bigint NOT NULL,
    last_event_at double precision,
    lost_events bigint NOT NULL,
    rescans bigint NOT NULL,
    detail text NOT NULL COLLATE pg_catalog."C",
    figures text NOT NULL COLLATE pg_catalog."C",
    told_at double precision NOT NULL,
    trouble_since double precision
);

CREATE TABLE cdn_listener.suppressed (
    id bigint NOT NULL,
    url text NOT NULL COLLATE pg_catalog."C",
    times bigint NOT NULL,
    at double precision NOT NULL,
    reason text NOT NULL COLLATE pg_catalog."C"
);

ALTER TABLE cdn_listener.suppressed ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.suppressed_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.target (
    id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C"
);

ALTER TABLE cdn_listener.target ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.target_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE cdn_listener.tombstone (
    root bigint NOT NULL,
    key bytea NOT NULL,
    below bigint NOT NULL,
    sequence bigint NOT NULL,
    at double precision NOT NULL
);

CREATE TABLE cdn_listener.tree (
    id bigint NOT NULL,
    root bigint NOT NULL,
    path bytea NOT NULL,
    objects bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE cdn_listener.tree ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME cdn_listener.tree_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY cdn_listener.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (name);

ALTER TABLE ONLY cdn_listener.attempt_group
    ADD CONSTRAINT attempt_group_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.attempt_item
    ADD CONSTRAINT attempt_item_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.backfill
    ADD CONSTRAINT backfill_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.control
    ADD CONSTRAINT control_pkey PRIMARY KEY (kind, target, prefix);

ALTER TABLE ONLY cdn_listener.copy_window
    ADD CONSTRAINT copy_window_pkey PRIMARY KEY (source, path);

ALTER TABLE ONLY cdn_listener.dead_letter
    ADD CONSTRAINT dead_letter_digest_source_kind_key UNIQUE (digest, source, kind);

ALTER TABLE ONLY cdn_listener.dead_letter
    ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.different_copy
    ADD CONSTRAINT different_copy_pkey PRIMARY KEY (source, path, object);

ALTER TABLE ONLY cdn_listener.directory
    ADD CONSTRAINT directory_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.directory
    ADD CONSTRAINT directory_target_url_key UNIQUE (target, url);

ALTER TABLE ONLY cdn_listener.dropped
    ADD CONSTRAINT dropped_pkey PRIMARY KEY (source, kind);

ALTER TABLE ONLY cdn_listener.inherited
    ADD CONSTRAINT inherited_pkey PRIMARY KEY (attempt);

ALTER TABLE ONLY cdn_listener.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.instance_count
    ADD CONSTRAINT instance_count_pkey PRIMARY KEY (name);

ALTER TABLE ONLY cdn_listener.instance
    ADD CONSTRAINT instance_pkey PRIMARY KEY (name);

ALTER TABLE ONLY cdn_listener.late_answer
    ADD CONSTRAINT late_answer_pkey PRIMARY KEY (attempt, task_id);

ALTER TABLE ONLY cdn_listener.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (name);

ALTER TABLE ONLY cdn_listener.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (account, kind, window_start);

ALTER TABLE ONLY cdn_listener.message
    ADD CONSTRAINT message_digest_key UNIQUE (digest);

ALTER TABLE ONLY cdn_listener.message
    ADD CONSTRAINT message_pkey PRIMARY KEY (number);

ALTER TABLE ONLY cdn_listener.need
    ADD CONSTRAINT need_pkey PRIMARY KEY (directory, name, scope);

ALTER TABLE ONLY cdn_listener.object
    ADD CONSTRAINT object_pkey PRIMARY KEY (tree, name);

ALTER TABLE ONLY cdn_listener.order_token
    ADD CONSTRAINT order_token_pkey PRIMARY KEY (root, key);

ALTER TABLE ONLY cdn_listener.pending_copy
    ADD CONSTRAINT pending_copy_pkey PRIMARY KEY (directory, name, scope, source, path, object, instance);

ALTER TABLE ONLY cdn_listener.pending_delete
    ADD CONSTRAINT pending_delete_pkey PRIMARY KEY (root, prefix);

ALTER TABLE ONLY cdn_listener.root
    ADD CONSTRAINT root_name_key UNIQUE (name);

ALTER TABLE ONLY cdn_listener.root
    ADD CONSTRAINT root_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.source
    ADD CONSTRAINT source_pkey PRIMARY KEY (name);

ALTER TABLE ONLY cdn_listener.suppressed
    ADD CONSTRAINT suppressed_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.suppressed
    ADD CONSTRAINT suppressed_url_key UNIQUE (url);

ALTER TABLE ONLY cdn_listener.target
    ADD CONSTRAINT target_name_key UNIQUE (name);

ALTER TABLE ONLY cdn_listener.target
    ADD CONSTRAINT target_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.tombstone
    ADD CONSTRAINT tombstone_pkey PRIMARY KEY (root, key, below);

ALTER TABLE ONLY cdn_listener.tree
    ADD CONSTRAINT tree_pkey PRIMARY KEY (id);

ALTER TABLE ONLY cdn_listener.tree
    ADD CONSTRAINT tree_root_path_key UNIQUE (root, path);

CREATE INDEX attempt_group_due ON cdn_listener.attempt_group USING btree (state, next_look_at) WHERE (active = 1);

CREATE INDEX attempt_group_flying ON cdn_listener.attempt_group USING btree (watermark) WHERE ((active = 1) AND (kind = 'directory'::text));

CREATE INDEX attempt_group_history ON cdn_listener.attempt_group USING btree (finished_at) WHERE (active = 0);

CREATE INDEX attempt_group_window ON cdn_listener.attempt_group USING btree (window_start);

CREATE INDEX attempt_item_group ON cdn_listener.attempt_item USING btree (group_id);

CREATE INDEX attempt_item_url ON cdn_listener.attempt_item USING btree (url);

CREATE INDEX dead_letter_body ON cdn_listener.dead_letter USING btree (length(body)) WHERE (body IS NOT NULL);

CREATE INDEX dead_letter_kind ON cdn_listener.dead_letter USING btree (kind);

CREATE INDEX dead_letter_source ON cdn_listener.dead_letter USING btree (source, kind);

CREATE INDEX directory_ready ON cdn_listener.directory USING btree (target) WHERE (ready > 0);

CREATE INDEX late_answer_account ON cdn_listener.late_answer USING btree (account);

CREATE INDEX need_aside ON cdn_listener.need USING btree (state, stale_since) WHERE (state >= 3);

CREATE INDEX need_asked ON cdn_listener.need USING btree (state) WHERE (asked > 0);

CREATE INDEX need_attempt ON cdn_listener.need USING btree (attempt) WHERE (attempt IS NOT NULL);

CREATE INDEX need_backfill ON cdn_listener.need USING btree (directory, priority) WHERE ((state = 1) AND (priority > 0));

CREATE INDEX need_due ON cdn_listener.need USING btree (slot) WHERE (due_at IS NOT NULL);

CREATE INDEX need_other ON cdn_listener.need USING btree (directory, scope) WHERE ((state = 1) AND (scope > 0));

CREATE INDEX need_ready ON cdn_listener.need USING btree (directory, stale_since) WHERE (state = 1);

CREATE INDEX need_stubborn ON cdn_listener.need USING btree (directory) WHERE ((state = 1) AND (needs_force = 1));

CREATE INDEX order_token_at ON cdn_listener.order_token USING btree (at);

CREATE TRIGGER need_ready_delete AFTER DELETE ON cdn_listener.need REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION cdn_listener.count_ready();

CREATE TRIGGER need_ready_insert AFTER INSERT ON cdn_listener.need REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cdn_listener.count_ready();

CREATE TRIGGER need_ready_update AFTER UPDATE ON cdn_listener.need REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cdn_listener.count_ready();

ALTER TABLE ONLY cdn_listener.attempt_group
    ADD CONSTRAINT attempt_group_target_fkey FOREIGN KEY (target) REFERENCES cdn_listener.target(id);

ALTER TABLE ONLY cdn_listener.attempt_item
    ADD CONSTRAINT attempt_item_group_id_fkey FOREIGN KEY (group_id) REFERENCES cdn_listener.attempt_group(id);

ALTER TABLE ONLY cdn_listener.directory
    ADD CONSTRAINT directory_target_fkey FOREIGN KEY (target) REFERENCES cdn_listener.target(id);

ALTER TABLE ONLY cdn_listener.need
    ADD CONSTRAINT need_directory_fkey FOREIGN KEY (directory) REFERENCES cdn_listener.directory(id);

ALTER TABLE ONLY cdn_listener.object
    ADD CONSTRAINT object_tree_fkey FOREIGN KEY (tree) REFERENCES cdn_listener.tree(id);

ALTER TABLE ONLY cdn_listener.order_token
    ADD CONSTRAINT order_token_root_fkey FOREIGN KEY (root) REFERENCES cdn_listener.root(id);

ALTER TABLE ONLY cdn_listener.pending_delete
    ADD CONSTRAINT pending_delete_root_fkey FOREIGN KEY (root) REFERENCES cdn_listener.root(id);

ALTER TABLE ONLY cdn_listener.tombstone
    ADD CONSTRAINT tombstone_root_fkey FOREIGN KEY (root) REFERENCES cdn_listener.root(id);

ALTER TABLE ONLY cdn_listener.tree
    ADD CONSTRAINT tree_root_fkey FOREIGN KEY (root) REFERENCES cdn_listener.root(id);

