-- Schema rl: the game's "updatedAt" of each known row, so that the feed reads a row again only when it has moved.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/006_add_row_versions.sql
--
-- Needs 001_add_rl_training_tables.sql. Only a hint where to look: what counts as news is the row's fingerprint.

ALTER TABLE rl.window_rows ADD COLUMN IF NOT EXISTS updated_at timestamp(3);

INSERT INTO rl.migrations (name) VALUES ('006_add_row_versions') ON CONFLICT (name) DO NOTHING;
