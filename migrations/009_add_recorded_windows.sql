-- Schema rl: what the feed knows about each row and each window, so that readiness is one look at one row per window.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/009_add_recorded_windows.sql
--
-- Needs 001_add_rl_training_tables.sql.

-- row_version is the game's version of a row (xmin of a table): a hint where to look; what counts as news is the
-- fingerprint. content is the hash of the steps without rewards; quality is null for a row that cannot be read.
ALTER TABLE rl.window_rows DROP COLUMN IF EXISTS updated_at;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS row_version     text;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS player          text;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS content         text;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS bytes           integer;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS quality         float8;
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS quality_reasons text[];
ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS instruments     text[];

-- One row per window with rows, kept by the feed. fingerprint covers the rows that count, taken is the fingerprint
-- that the last snapshot was made of, settled says that this content has its final verdict. stale_reason is set
-- where something else than a row has changed (market outcomes, values of orders).
CREATE TABLE IF NOT EXISTS rl.recorded_windows (
    window_id        text PRIMARY KEY,
    rows             integer NOT NULL,
    agents           integer NOT NULL,
    test_rows        integer NOT NULL DEFAULT 0,
    test_agents      integer NOT NULL DEFAULT 0,
    good_rows        integer NOT NULL DEFAULT 0,
    unreadable       integer NOT NULL DEFAULT 0,
    quality          float8,
    quality_reasons  jsonb NOT NULL DEFAULT '{}',
    fingerprint      text NOT NULL,
    seen_at          timestamptz NOT NULL DEFAULT now(),
    taken            text,
    taken_rows       integer,
    taken_at         timestamptz,
    settled          boolean NOT NULL DEFAULT false,
    stale_reason     text,
    due              boolean GENERATED ALWAYS AS (taken IS DISTINCT FROM fingerprint OR NOT settled) STORED
);
CREATE INDEX IF NOT EXISTS recorded_windows_due_idx ON rl.recorded_windows (window_id) WHERE due;

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_judge') IS NULL THEN
        RETURN;
    END IF;
    GRANT SELECT ON rl.recorded_windows TO babylon_reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON rl.recorded_windows TO babylon_judge;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: babylon_reader and babylon_judge on rl.recorded_windows (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('009_add_recorded_windows') ON CONFLICT (name) DO NOTHING;
