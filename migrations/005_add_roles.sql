-- The roles that the pipeline runs under, and what each may read and write.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/005_add_roles.sql
--
-- The hidden answers are readable by babylon_judge alone: "Question".outcome and "resolvedOutcome",
-- "WorldEvent"."pointsToward", market_outcomes, rl.outcomes, rl.market_resolutions. Nobody logs in as these
-- roles; a connection takes one with SET ROLE. Where game tables and schema rl live in different databases the
-- file runs in both and grants what it finds.

CREATE SCHEMA IF NOT EXISTS rl;
CREATE TABLE IF NOT EXISTS rl.migrations (
    name        text PRIMARY KEY,
    sha256      text,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

DO $roles$
DECLARE
    wanted text;
    -- Since PostgreSQL 16 membership alone does not allow SET ROLE.
    taking CONSTANT text := CASE WHEN current_setting('server_version_num')::int >= 160000
                                 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['babylon_reader', 'babylon_judge', 'babylon_trainer', 'babylon_gateway'] LOOP
        BEGIN
            IF to_regrole(wanted) IS NULL THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
            IF NOT pg_has_role(current_user, wanted, taking) THEN
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- another database of the server was faster
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % cannot be created or taken by %: ask an administrator to run '
                    '"CREATE ROLE %; GRANT % TO %", then run this file again',
                    wanted, current_user, wanted, wanted, current_user;
        END;
    END LOOP;
END
$roles$;

DO $grants$
DECLARE
    -- What of a player the pipeline needs; prompts, wallets and contact data stay with the game.
    player_columns CONSTANT text[] := ARRAY[
        'id', 'username', 'displayName', 'isActor', 'isAgent', 'isTest', 'isBanned', 'isScammer',
        'virtualBalance', 'totalDeposited', 'totalWithdrawn', 'lifetimePnL', 'totalAgentPnL', 'totalFeesPaid',
        'reputationPoints', 'agentModelTier', 'agentRiskTolerance', 'agentPlanningHorizon',
        'agentMaxActionsPerTick', 'agentStatus', 'agentLastTickAt', 'autonomousTrading', 'managedBy',
        'createdAt', 'updatedAt'];
    hidden CONSTANT text[] := ARRAY['Question.outcome', 'Question.resolvedOutcome', 'WorldEvent.pointsToward'];
    open_tables CONSTANT text[] := ARRAY[
        'Organization', 'StockPrice', 'PerpPosition', 'Market', 'Position', 'PredictionPriceHistory', 'Post',
        'AgentTrade', 'NPCTrade', 'BalanceTransaction', 'AgentPerformanceMetrics', 'SystemSettings',
        'trajectories', 'llm_call_logs', 'training_batches', 'trained_models', 'reward_judgments'];
    -- role, privilege, table of the game, columns (null: all)
    projections CONSTANT text[][] := ARRAY[
        ['babylon_judge', 'UPDATE', 'trajectories', 'aiJudgeReward,aiJudgeReasoning,judgedAt'],
        ['babylon_judge', 'SELECT,INSERT,UPDATE,DELETE', 'market_outcomes', NULL],
        ['babylon_judge', 'INSERT,UPDATE', 'reward_judgments', NULL],
        ['babylon_trainer', 'UPDATE', 'trajectories', 'usedInTraining,trainedInBatch'],
        ['babylon_trainer', 'INSERT,UPDATE', 'training_batches', NULL],
        ['babylon_trainer', 'INSERT,UPDATE', 'trained_models', NULL]];
    pipeline CONSTANT text[][] := ARRAY[
        ['babylon_judge', 'SELECT,INSERT,UPDATE,DELETE', 'outcomes'],
        ['babylon_judge', 'SELECT,INSERT,UPDATE,DELETE', 'market_resolutions'],
        ['babylon_judge', 'INSERT,UPDATE,DELETE', 'order_value'],
        ['babylon_judge', 'INSERT,UPDATE,DELETE', 'scores'],
        ['babylon_judge', 'INSERT,UPDATE', 'window_state'],
        ['babylon_judge', 'INSERT,UPDATE', 'window_rows'],
        ['babylon_judge', 'INSERT,UPDATE', 'quarantine'],
        ['babylon_trainer', 'INSERT,UPDATE,DELETE', 'training_batches'],
        ['babylon_trainer', 'INSERT,UPDATE,DELETE', 'trained_days'],
        ['babylon_trainer', 'INSERT,UPDATE,DELETE', 'training_units'],
        ['babylon_trainer', 'INSERT,UPDATE', 'models'],
        ['babylon_trainer', 'INSERT,UPDATE', 'benchmarks'],
        ['babylon_trainer', 'INSERT,UPDATE', 'deployments'],
        ['babylon_gateway', 'SELECT', 'models'],
        ['babylon_gateway', 'SELECT', 'deployments'],
        ['babylon_gateway', 'SELECT', 'installation'],
        ['babylon_gateway', 'SELECT', 'migrations']];
    readable CONSTANT text[] := ARRAY[
        'migrations', 'installation', 'simulation', 'window_rows', 'quarantine', 'window_state', 'scores',
        'order_value', 'training_batches', 'trained_days', 'training_units', 'self_hosted_training_status',
        'models', 'benchmarks', 'deployments'];
    item text;
    fields text[];
    columns text;
    statements text[] := ARRAY[
        'GRANT USAGE ON SCHEMA rl TO babylon_reader, babylon_gateway',
        format('GRANT USAGE ON SCHEMA %I TO babylon_reader, babylon_gateway', current_schema())];
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_judge') IS NULL
       OR to_regrole('babylon_trainer') IS NULL OR to_regrole('babylon_gateway') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;

    FOREACH item IN ARRAY ARRAY['babylon_judge', 'babylon_trainer'] LOOP
        IF NOT pg_has_role(item, 'babylon_reader', 'MEMBER') THEN
            statements := statements || format('GRANT babylon_reader TO %I', item);
        END IF;
    END LOOP;
    FOREACH item IN ARRAY open_tables LOOP
        IF to_regclass(quote_ident(item)) IS NOT NULL THEN
            statements := statements || format('GRANT SELECT ON %I TO babylon_reader', item);
        END IF;
    END LOOP;
    FOREACH item IN ARRAY ARRAY['User', 'Question', 'WorldEvent'] LOOP
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
        FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(item)) AND attnum > 0 AND NOT attisdropped
          AND (item <> 'User' OR attname = ANY (player_columns))
          AND NOT (item || '.' || attname) = ANY (hidden);
        IF columns IS NOT NULL THEN
            statements := statements || format('GRANT SELECT (%s) ON %I TO babylon_reader', columns, item);
        END IF;
    END LOOP;
    IF to_regclass('"User"') IS NOT NULL THEN
        statements := statements
            || 'GRANT SELECT ("id", "isAgent", "isTest", "isBanned") ON "User" TO babylon_gateway'::text;
    END IF;
    FOREACH item IN ARRAY hidden LOOP
        IF to_regclass(quote_ident(split_part(item, '.', 1))) IS NOT NULL THEN
            statements := statements || format('GRANT SELECT (%I) ON %I TO babylon_judge',
                                               split_part(item, '.', 2), split_part(item, '.', 1));
        END IF;
    END LOOP;
    FOREACH fields SLICE 1 IN ARRAY projections LOOP
        IF to_regclass(quote_ident(fields[3])) IS NULL THEN
            CONTINUE;
        ELSIF fields[4] IS NULL THEN
            statements := statements || format('GRANT %s ON %I TO %I', fields[2], fields[3], fields[1]);
        ELSE
            SELECT string_agg(quote_ident(name), ', ') INTO columns
            FROM unnest(string_to_array(fields[4], ',')) AS name;
            statements := statements
                || format('GRANT %s (%s) ON %I TO %I', fields[2], columns, fields[3], fields[1]);
        END IF;
    END LOOP;

    FOREACH item IN ARRAY readable LOOP
        IF to_regclass('rl.' || quote_ident(item)) IS NOT NULL THEN
            statements := statements || format('GRANT SELECT ON rl.%I TO babylon_reader', item);
        END IF;
    END LOOP;
    FOREACH fields SLICE 1 IN ARRAY pipeline LOOP
        IF to_regclass('rl.' || quote_ident(fields[3])) IS NOT NULL THEN
            statements := statements || format('GRANT %s ON rl.%I TO %I', fields[2], fields[3], fields[1]);
        END IF;
    END LOOP;

    FOREACH item IN ARRAY statements LOOP
        BEGIN
            EXECUTE item;
        EXCEPTION
            WHEN insufficient_privilege OR undefined_column THEN
                RAISE NOTICE 'not granted (%): %', SQLERRM, item;
        END;
    END LOOP;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('005_add_roles') ON CONFLICT (name) DO NOTHING;
