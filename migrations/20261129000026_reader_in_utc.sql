-- CURRENT_DATE is the UTC day for who logs in as p2p_reader, wherever the client stands. What is there of the bounds is not set anew.

CREATE OR REPLACE FUNCTION pipeline.make_roles() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- LOGIN, because settings of a role hold for those who log in as it and not for its members.
    -- jit: compiling costs more than most questions take.
    bounds CONSTANT text[] := ARRAY[
        'search_path = warehouse', 'statement_timeout = ''60s''', 'idle_in_transaction_session_timeout = ''5min''',
        'default_transaction_read_only = on', 'jit = off',
        -- Days are those of UTC, and so is CURRENT_DATE: with a clock to the west of it the running day is not there yet.
        'TimeZone = ''UTC'''];
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
    EXCEPTION
    -- Another database of the server is migrated at this moment, and sets the same.
    WHEN unique_violation OR internal_error THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'p2p_reader can''t be bounded by %: as a role that may alter it run SELECT pipeline.make_roles()', current_user;
    END;
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the roles p2p_reader and p2p_writer can''t be made by %: as a role with CREATEROLE run SELECT pipeline.make_roles(), then p2p migrate again', current_user;
    RETURN false;
END
$$;

SELECT pipeline.make_roles();
