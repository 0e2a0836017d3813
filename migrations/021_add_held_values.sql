-- Schema rl: what closing an order early changed, so that the decision to close it has a value of its own.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/021_add_held_values.sql
--
-- Needs 003_add_outcome_tables.sql.

-- closed_at: when the agent closed the order before the horizon; held: its value at the horizon, had it not (USD).
ALTER TABLE rl.order_value
    ADD COLUMN IF NOT EXISTS closed_at timestamp(3),
    ADD COLUMN IF NOT EXISTS held float8;

INSERT INTO rl.migrations (name) VALUES ('021_add_held_values') ON CONFLICT (name) DO NOTHING;
