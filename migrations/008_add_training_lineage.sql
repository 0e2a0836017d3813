-- Schema rl: the parts of a training unit, side branches, and exactly what was trained.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/008_add_training_lineage.sql
--
-- Needs 002_add_self_hosted_tables.sql, 004_add_model_registry.sql and 005_add_roles.sql.

-- Why this backend: the choice of `auto`, or the setting that named it.
ALTER TABLE rl.training_units ADD COLUMN IF NOT EXISTS backend_reason text;

-- Null on the live chain. A branch is never the parent of a day: a window trained alone, a retraining.
ALTER TABLE rl.models ADD COLUMN IF NOT EXISTS branch text;

-- A unit is cut into ordered chunks that fit one submission. A row is written before its work starts, and the
-- external job's id before it is polled.
CREATE TABLE IF NOT EXISTS rl.training_chunks (
    unit_key         text NOT NULL REFERENCES rl.training_units (unit_key) ON DELETE CASCADE,
    chunk            integer NOT NULL CHECK (chunk >= 0),
    chunks           integer NOT NULL CHECK (chunks > chunk),
    content_sha256   text NOT NULL,
    groups           integer NOT NULL,
    trajectories     integer NOT NULL,
    tokens           bigint NOT NULL,
    status           text NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'training', 'submitting', 'submitted', 'failed', 'done')),
    attempt          integer NOT NULL DEFAULT 0,
    step_before      integer,
    step_after       integer,
    external_job_id  text,
    checkpoint       text,
    metrics          jsonb,
    error            text,
    started_at       timestamptz,
    completed_at     timestamptz,
    PRIMARY KEY (unit_key, chunk)
);

-- Which windows a published version was trained on; written in the publishing transaction.
CREATE TABLE IF NOT EXISTS rl.trained_windows (
    window_id   text NOT NULL,
    unit_key    text NOT NULL REFERENCES rl.training_units (unit_key) ON DELETE CASCADE,
    version     text NOT NULL REFERENCES rl.models (version) ON DELETE CASCADE,
    branch      text,
    trained_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (window_id, unit_key)
);
CREATE INDEX IF NOT EXISTS trained_windows_version_idx ON rl.trained_windows (version);

DO $grants$
DECLARE
    item text;
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_trainer') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    FOREACH item IN ARRAY ARRAY['training_chunks', 'trained_windows'] LOOP
        BEGIN
            EXECUTE format('GRANT SELECT ON rl.%I TO babylon_reader', item);
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON rl.%I TO babylon_trainer', item);
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'not granted (%): rl.%', SQLERRM, item;
        END;
    END LOOP;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('008_add_training_lineage') ON CONFLICT (name) DO NOTHING;
