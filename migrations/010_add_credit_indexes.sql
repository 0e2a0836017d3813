-- Schema rl: what finds the orders whose value is not final yet, when their horizon passes or their market is resolved.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/010_add_credit_indexes.sql
--
-- Needs 003_add_outcome_tables.sql.

CREATE INDEX IF NOT EXISTS order_value_unmatured_idx ON rl.order_value (horizon, opened_at) WHERE NOT matured;
CREATE INDEX IF NOT EXISTS order_value_market_idx ON rl.order_value (instrument) WHERE horizon = 'resolution';

INSERT INTO rl.migrations (name) VALUES ('010_add_credit_indexes') ON CONFLICT (name) DO NOTHING;
