-- Schema rl: answers that a server was paid for, kept as they come, so that a run that dies pays for none of them twice.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/020_add_paid_answers.sql
--
-- Needs 001_add_rl_training_tables.sql; the grants need the roles of 005_add_roles.sql.

-- One row per request, by the hash of version, prompt and sampling. It is written before the request with the most
-- that it can cost, so that the budget holds whatever happens to the process; afterwards it has the answer and its
-- cost. agent_id: whose prompt it was, for `babylon forget`.
CREATE TABLE IF NOT EXISTS rl.paid_answers (
    request_key    text PRIMARY KEY,
    version        text NOT NULL,
    agent_id       text NOT NULL,
    answer         jsonb,
    prompt_tokens  integer,
    answer_tokens  integer,
    cost_usd       float8 NOT NULL,
    asked_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS paid_answers_asked_at_idx ON rl.paid_answers (asked_at);
CREATE INDEX IF NOT EXISTS paid_answers_agent_id_idx ON rl.paid_answers (agent_id);

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_trainer') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    GRANT SELECT ON rl.paid_answers TO babylon_reader;
    GRANT INSERT, UPDATE, DELETE ON rl.paid_answers TO babylon_trainer;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: rl.paid_answers (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('020_add_paid_answers') ON CONFLICT (name) DO NOTHING;
