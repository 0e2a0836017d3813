-- Schema rl: what is trained, once, from which frozen batch.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/002_add_self_hosted_tables.sql

CREATE SCHEMA IF NOT EXISTS rl;
CREATE TABLE IF NOT EXISTS rl.migrations (
    name        text PRIMARY KEY,
    sha256      text,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- Immutable batches, named by the hash of their file. superseded_by names a newer batch of the same day.
CREATE TABLE IF NOT EXISTS rl.training_batches (
    batch_sha256   text PRIMARY KEY,
    day            date NOT NULL,
    uri            text,
    status         text NOT NULL CHECK (status IN ('ready', 'empty')),
    groups         integer NOT NULL DEFAULT 0,
    episodes       integer NOT NULL DEFAULT 0,
    calls          integer NOT NULL DEFAULT 0,
    reason         text,
    config         jsonb NOT NULL DEFAULT '{}',
    superseded_by  text,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS training_batches_day_idx ON rl.training_batches (day);

-- The one batch of each day that the live lineage trained.
CREATE TABLE IF NOT EXISTS rl.trained_days (
    day           date PRIMARY KEY,
    batch_sha256  text NOT NULL,
    unit_key      text,
    version       text
);

-- The training ledger: a row is written before work starts. unit_key = hash(batch, parent, config). The lease is
-- fenced: who publishes must still hold the epoch that it started with.
CREATE TABLE IF NOT EXISTS rl.training_units (
    unit_key         text PRIMARY KEY,
    batch_sha256     text NOT NULL,
    day              date,
    parent_version   text,
    config           jsonb NOT NULL DEFAULT '{}',
    backend          text NOT NULL,
    status           text NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'running', 'done', 'failed', 'in_doubt')),
    epoch            bigint NOT NULL DEFAULT 0,
    lease_until      timestamptz,
    owner            text,
    external_job_id  text,
    version          text,
    metrics          jsonb,
    error            text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    completed_at     timestamptz
);
CREATE INDEX IF NOT EXISTS training_units_batch_idx ON rl.training_units (batch_sha256);

-- For people: how far each day got.
CREATE OR REPLACE VIEW rl.self_hosted_training_status AS
SELECT batch.day,
       batch.status AS batch_status,
       batch.groups,
       batch.episodes,
       batch.calls,
       unit.backend,
       unit.status AS training_status,
       unit.version,
       unit.error,
       unit.started_at,
       unit.completed_at
FROM rl.training_batches AS batch
LEFT JOIN rl.training_units AS unit USING (batch_sha256)
ORDER BY batch.day, batch.created_at;

INSERT INTO rl.migrations (name) VALUES ('002_add_self_hosted_tables') ON CONFLICT (name) DO NOTHING;
