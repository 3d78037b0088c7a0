-- The bounds of p2p_reader hold also if the role was there before, as where roles are declared. And workers
-- tell how their egress fares.

CREATE OR REPLACE FUNCTION pipeline.make_roles() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- LOGIN, because settings of a role hold for those who log in as it and not for its members.
    -- jit: compiling costs more than most questions take.
    bounds CONSTANT text[] := ARRAY[
        'search_path = warehouse', 'statement_timeout = ''60s''', 'idle_in_transaction_session_timeout = ''5min''',
        'default_transaction_read_only = on', 'jit = off'];
    bound text;
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_reader') THEN
            CREATE ROLE p2p_reader LOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_writer') THEN
            CREATE ROLE p2p_writer LOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    BEGIN
        FOREACH bound IN ARRAY bounds LOOP
            -- What somebody set otherwise stays.
            IF NOT EXISTS (SELECT FROM pg_roles, unnest(rolconfig) setting
                            WHERE rolname = 'p2p_reader' AND setting LIKE split_part(bound, ' ', 1) || '=%') THEN
                EXECUTE 'ALTER ROLE p2p_reader SET ' || bound;
            END IF;
        END LOOP;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'p2p_reader can''t be bounded by %: as a role that may alter it run SELECT pipeline.make_roles()', current_user;
    END;
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the roles p2p_reader and p2p_writer can''t be made by %: as a role with CREATEROLE run SELECT pipeline.make_roles(), then p2p migrate again', current_user;
    RETURN false;
END
$$;
COMMENT ON FUNCTION pipeline.make_roles() IS 'Makes the roles p2p_reader and p2p_writer unless they are there, and bounds the first; false if the caller may not.';

SELECT pipeline.make_roles();

ALTER TABLE pipeline.workers
    ADD COLUMN is_redis_away boolean,
    ADD COLUMN refusals integer;
COMMENT ON COLUMN pipeline.workers.is_redis_away IS 'Whether Redis did not answer the worker, which then keeps to its share of the lowest rate. NULL: a worker of an older version, which does not tell.';
COMMENT ON COLUMN pipeline.workers.refusals IS 'Refusals of its egress in a row (429, 418, 403). NULL: not known, as Redis is away, or the worker does not tell.';
