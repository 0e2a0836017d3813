-- Schema rl: what an experiment measured, frozen when it was measured, so that no later look sees another past.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/019_add_rollout_values.sql
--
-- Needs 018_add_rollouts.sql.

-- One row per window of an experiment, in order: measured once its orders' horizon has passed, or lost for everybody.
CREATE TABLE IF NOT EXISTS rl.rollout_windows (
    rollout_id   bigint NOT NULL REFERENCES rl.rollouts (id) ON DELETE CASCADE,
    window_id    text NOT NULL,
    status       text NOT NULL CHECK (status IN ('measured', 'lost')),
    reason       text,
    agents       integer NOT NULL DEFAULT 0,
    left_out     jsonb NOT NULL DEFAULT '{}',
    measured_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout_id, window_id)
);

-- One row per agent that was served in the window. left_out: why its P&L does not count (fallback, mixed, …);
-- failures are counted nevertheless. pnl in USD, attributed to the window's orders at +1 h.
CREATE TABLE IF NOT EXISTS rl.rollout_values (
    rollout_id  bigint NOT NULL,
    window_id   text NOT NULL,
    agent_id    text NOT NULL,
    arm         text NOT NULL CHECK (arm IN ('candidate', 'active')),
    left_out    text,
    pnl         float8,
    orders      integer NOT NULL DEFAULT 0,
    wins        integer NOT NULL DEFAULT 0,
    calls       integer NOT NULL,
    failures    integer NOT NULL,
    latency_ms  float8 NOT NULL,
    PRIMARY KEY (rollout_id, window_id, agent_id),
    FOREIGN KEY (rollout_id, window_id) REFERENCES rl.rollout_windows (rollout_id, window_id) ON DELETE CASCADE
);

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_gateway') IS NULL
       OR to_regrole('babylon_trainer') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    GRANT SELECT ON rl.rollout_windows, rl.rollout_values TO babylon_reader, babylon_gateway;
    GRANT INSERT ON rl.rollout_windows, rl.rollout_values TO babylon_trainer, babylon_gateway;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: rl.rollout_windows and rl.rollout_values (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('019_add_rollout_values') ON CONFLICT (name) DO NOTHING;
