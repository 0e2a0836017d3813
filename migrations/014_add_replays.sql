-- Schema rl: decision replays beside the benchmarks of the gate and the vault.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/014_add_replays.sql
--
-- Needs 004_add_model_registry.sql.

ALTER TABLE rl.benchmarks DROP CONSTRAINT IF EXISTS benchmarks_purpose_check;
ALTER TABLE rl.benchmarks
    ADD CONSTRAINT benchmarks_purpose_check CHECK (purpose IN ('gate', 'vault', 'replay'));

INSERT INTO rl.migrations (name) VALUES ('014_add_replays') ON CONFLICT (name) DO NOTHING;
