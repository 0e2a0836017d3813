-- Schema rl: what the pipeline knows about recorded windows.
--
-- Applied by `babylon migrate`, or by hand (each file alone is enough for its own tables, and safe to repeat):
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/001_add_rl_training_tables.sql
-- Nothing here touches, indexes or references a table of the game.

CREATE SCHEMA IF NOT EXISTS rl;

-- The ledger of these files. sha256 is null for a file that was applied by psql.
CREATE TABLE IF NOT EXISTS rl.migrations (
    name        text PRIMARY KEY,
    sha256      text,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- One row in a database that is ours: the simulation and the spawner write game tables only where it is present.
CREATE TABLE IF NOT EXISTS rl.installation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    kind        text NOT NULL CHECK (kind IN ('embedded')),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- What was simulated into the game tables, so that a repeated command continues instead of doubling.
CREATE TABLE IF NOT EXISTS rl.simulation (
    seed        integer PRIMARY KEY,
    start_day   date NOT NULL,
    days        integer NOT NULL CHECK (days >= 0),
    agents      integer NOT NULL CHECK (agents >= 0),
    spec        jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Each recorded trajectory, its window, and a fingerprint of what the recorder wrote. Readiness and reading go
-- through it, so the game's table needs no index of ours.
CREATE TABLE IF NOT EXISTS rl.window_rows (
    trajectory_id  text PRIMARY KEY,
    agent_id       text NOT NULL,
    window_id      text NOT NULL,
    start_time     timestamp(3) NOT NULL,
    created_at     timestamp(3) NOT NULL,
    fingerprint    text NOT NULL,
    excluded       text,
    seen_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS window_rows_window_id_idx ON rl.window_rows (window_id);
CREATE INDEX IF NOT EXISTS window_rows_created_at_idx ON rl.window_rows (created_at);

-- Rows that cannot be read, with the reason; released when a later read succeeds.
CREATE TABLE IF NOT EXISTS rl.quarantine (
    trajectory_id  text PRIMARY KEY,
    window_id      text,
    reason         text NOT NULL,
    detail         text NOT NULL,
    fingerprint    text,
    first_seen     timestamptz NOT NULL DEFAULT now(),
    released_at    timestamptz
);
CREATE INDEX IF NOT EXISTS quarantine_window_id_idx ON rl.quarantine (window_id);

-- The verdicts of each window. Consumers read these, not the colour of an asset check.
CREATE TABLE IF NOT EXISTS rl.window_state (
    window_id           text PRIMARY KEY,
    rows                integer,
    agents              integer,
    episodes            integer,
    snapshot_status     text,
    snapshot_sha256     text,
    snapshot_uri        text,
    outcomes_status     text,
    outcomes_sha256     text,
    outcomes_at         timestamptz,
    group_status        text,
    group_reason        text,
    group_sha256        text,
    group_uri           text,
    scorer              text,
    reward_mean         float8,
    reward_std          float8,
    pnl_mean            float8,
    pnl_spearman        float8,
    pnl_variance_share  float8,
    updated_at          timestamptz NOT NULL DEFAULT now()
);

-- One reward per agent and scored group; a re-score adds rows under the new group's hash.
CREATE TABLE IF NOT EXISTS rl.scores (
    window_id     text NOT NULL,
    agent_id      text NOT NULL,
    scorer        text NOT NULL,
    group_sha256  text NOT NULL,
    reward        float8 NOT NULL,
    advantage     float8 NOT NULL,
    components    jsonb NOT NULL DEFAULT '{}',
    scored_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (window_id, agent_id, group_sha256)
);

INSERT INTO rl.migrations (name) VALUES ('001_add_rl_training_tables') ON CONFLICT (name) DO NOTHING;
