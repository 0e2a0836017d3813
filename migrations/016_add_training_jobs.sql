-- Schema rl: trainings that operators, the game's batches and the old worker's clients asked for.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/016_add_training_jobs.sql
--
-- Needs 002_add_self_hosted_tables.sql and 005_add_roles.sql. A row is written before Dagster is asked for a run, so
-- that a request that was answered is never started twice: the run carries the job's id as a tag.

CREATE TABLE IF NOT EXISTS rl.training_jobs (
    job_id          text PRIMARY KEY,
    run_id          text UNIQUE,
    source          text NOT NULL CHECK (source IN ('api', 'game', 'worker')),
    day             date NOT NULL,
    batch_size      integer CHECK (batch_size > 0),
    force           boolean NOT NULL DEFAULT false,
    -- id of the game's training_batches row that asked for it; each is claimed once
    game_batch_id   text UNIQUE,
    status          text NOT NULL DEFAULT 'starting'
                    CHECK (status IN ('starting', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
    progress        float8 NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    stage           text,
    version         text,
    error           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz
);
-- One at a time: two requests at once cannot both win.
CREATE UNIQUE INDEX IF NOT EXISTS training_jobs_one_open_idx
    ON rl.training_jobs ((true)) WHERE status IN ('starting', 'queued', 'running');
CREATE INDEX IF NOT EXISTS training_jobs_created_idx ON rl.training_jobs (created_at);

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_trainer') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    GRANT SELECT ON rl.training_jobs TO babylon_reader;
    GRANT INSERT, UPDATE ON rl.training_jobs TO babylon_trainer;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: babylon_reader and babylon_trainer on rl.training_jobs (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('016_add_training_jobs') ON CONFLICT (name) DO NOTHING;
