-- Roles: what the recorder or a judge noted of the hidden answers is readable by babylon_judge alone.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f migrations/015_hide_game_knowledge.sql
--
-- "trajectories"."metadataJson" may hold gameKnowledge (true probabilities, outcomes), and a judge's reasons may
-- quote the ground truth. Needs 005_add_roles.sql; does nothing where the game's tables are in another database.

DO $grants$
DECLARE
    hidden CONSTANT text[] := ARRAY['trajectories.metadataJson', 'trajectories.aiJudgeReasoning',
                                    'reward_judgments.reasoning', 'reward_judgments.criteriaJson',
                                    'reward_judgments.strengthsJson', 'reward_judgments.weaknessesJson'];
    item text;
    columns text;
    statement text;
BEGIN
    IF to_regrole('babylon_reader') IS NULL OR to_regrole('babylon_judge') IS NULL THEN
        RAISE NOTICE 'nothing was granted: the roles are missing';
        RETURN;
    END IF;
    FOREACH item IN ARRAY ARRAY['trajectories', 'reward_judgments'] LOOP
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
        FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(item)) AND attnum > 0 AND NOT attisdropped
          AND NOT (item || '.' || attname) = ANY (hidden);
        CONTINUE WHEN columns IS NULL;
        FOREACH statement IN ARRAY ARRAY[
            format('REVOKE SELECT ON %I FROM babylon_reader', item),
            -- a row's version is its xmin, a column that only a privilege on the whole table includes
            format('GRANT SELECT (%s, xmin) ON %I TO babylon_reader', columns, item),
            format('GRANT SELECT ON %I TO babylon_judge', item)
        ] LOOP
            BEGIN
                EXECUTE statement;
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'not granted (%): %', SQLERRM, statement;
            END;
        END LOOP;
    END LOOP;
END
$grants$;

INSERT INTO rl.migrations (name) VALUES ('015_hide_game_knowledge') ON CONFLICT (name) DO NOTHING;
