-- Schema rl: views under the names and columns that the seed documents query, for people with psql.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/011_add_seed_views.sql
--     PGOPTIONS='-c search_path=rl' psql "$DATABASE_URL"     -- here the documents' queries run as printed
--
-- Needs 001_add_rl_training_tables.sql and 004_add_model_registry.sql. Nothing of ours reads these views.

-- An unquoted createdAt is createdat to PostgreSQL, so the column is there under both names.
CREATE OR REPLACE VIEW rl.trained_models AS
SELECT version,
       status,
       created_at AT TIME ZONE 'UTC' AS createdat,
       created_at AT TIME ZONE 'UTC' AS "createdAt",
       model_id AS "modelId",
       base_model AS "baseModel",
       parent_version,
       verdict,
       storage_path AS "storagePath",
       deployed_at AT TIME ZONE 'UTC' AS "deployedAt",
       archived_at AT TIME ZONE 'UTC' AS "archivedAt"
FROM rl.models;

-- The view stands on a function whose body is text, which PostgreSQL does not track: a view over the game's table
-- would make the game's own migrations fail when they change a column of it. The planner inlines the function.
DO $trajectories$
DECLARE
    game text;
BEGIN
    SELECT quote_ident(namespace.nspname) INTO game
    FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.oid = to_regclass('"trajectories"') AND namespace.nspname <> 'rl';
    IF game IS NULL THEN
        RAISE NOTICE 'rl.trajectories is not made: the game''s tables are in another database';
        RETURN;
    END IF;
    EXECUTE format($function$
        CREATE OR REPLACE FUNCTION rl.recorded_trajectories() RETURNS TABLE (
            "id" text, "trajectoryId" text, "agentId" text, "windowId" text, "scenarioId" text,
            "startTime" timestamp, "endTime" timestamp, "stepsJson" text, "episodeLength" integer,
            "totalReward" float8, "finalStatus" text, "finalBalance" float8, "finalPnL" float8,
            "tradesExecuted" integer, "isTrainingData" boolean, "isEvaluation" boolean,
            "createdAt" timestamp, createdat timestamp,
            trajectory_id text, window_id text, agent_id text, final_pnl float8, excluded text, quality float8
        ) LANGUAGE sql STABLE AS $body$
            SELECT t."id", t."trajectoryId", t."agentId", t."windowId"::text, t."scenarioId"::text,
                   t."startTime"::timestamp, t."endTime"::timestamp, t."stepsJson", t."episodeLength",
                   t."totalReward", t."finalStatus", t."finalBalance", t."finalPnL",
                   t."tradesExecuted", t."isTrainingData", t."isEvaluation",
                   t."createdAt"::timestamp, t."createdAt"::timestamp,
                   -- the one window that the row belongs to, and its P&L unless that is no number
                   t."trajectoryId", coalesce(known.window_id, t."windowId"::text), t."agentId",
                   nullif(t."finalPnL", 'NaN'), known.excluded, known.quality
            FROM %s."trajectories" AS t
            LEFT JOIN rl.window_rows AS known ON known.trajectory_id = t."trajectoryId"
        $body$
    $function$, game);
    CREATE OR REPLACE VIEW rl.trajectories AS SELECT * FROM rl.recorded_trajectories();
END
$trajectories$;

DO $grants$
BEGIN
    IF to_regrole('babylon_reader') IS NULL THEN
        RETURN;
    END IF;
    GRANT SELECT ON rl.trained_models TO babylon_reader;
    IF to_regclass('rl.trajectories') IS NOT NULL THEN
        GRANT SELECT ON rl.trajectories TO babylon_reader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'not granted: babylon_reader on rl.trained_models and rl.trajectories (%)', SQLERRM;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('011_add_seed_views') ON CONFLICT (name) DO NOTHING;
