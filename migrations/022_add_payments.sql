-- Schema rl: what each batch pays whom, so that a resolution days later pays no more than its difference.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/022_add_payments.sql
--
-- Needs 002_add_self_hosted_tables.sql, 004_add_model_registry.sql and 005_add_roles.sql.

-- One row per window of a batch. Final once the batch is the frozen one of a trained day; until then it paid nothing.
-- members: by agent id, what the rewards were made of (P&L in USD, wins, losses, …); with residual, what was added to
-- all earlier payments. reason: why the window has no residuals (a judge's scores, …); then there are no members.
CREATE TABLE IF NOT EXISTS rl.payments (
    batch_sha256    text NOT NULL REFERENCES rl.training_batches (batch_sha256) ON DELETE CASCADE,
    window_id       text NOT NULL,
    residual        boolean NOT NULL,
    scorer          text NOT NULL,
    scorer_version  text NOT NULL,
    horizon         text,
    members         jsonb NOT NULL,
    reason          text NOT NULL DEFAULT '',
    PRIMARY KEY (batch_sha256, window_id)
);
CREATE INDEX IF NOT EXISTS payments_window_id_idx ON rl.payments (window_id);

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_trainer') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    GRANT SELECT ON rl.payments TO babylon_reader;
    GRANT INSERT, UPDATE, DELETE ON rl.payments TO babylon_trainer;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: rl.payments (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('022_add_payments') ON CONFLICT (name) DO NOTHING;
