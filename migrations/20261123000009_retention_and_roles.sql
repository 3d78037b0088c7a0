-- What is kept for how long, and who may do what. The tables that are partitioned are named in a table,
-- so that making and dropping partitions learn of a new one by one row.

CREATE TABLE pipeline.partitioned_tables (
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    class       text NOT NULL CHECK (class IN ('facts', 'marts')),
    step        text NOT NULL CHECK (step IN ('day', 'month')),
    drop_order  smallint NOT NULL UNIQUE,
    fillfactor  smallint NOT NULL DEFAULT 100,
    PRIMARY KEY (schema_name, table_name)
);
COMMENT ON TABLE pipeline.partitioned_tables IS 'Tables that are partitioned by their column day: partitions are made ahead and dropped by age. A new one joins by a row.';
COMMENT ON COLUMN pipeline.partitioned_tables.schema_name IS 'Schema of the table.';
COMMENT ON COLUMN pipeline.partitioned_tables.table_name IS 'Name of the table; a partition has it with _YYYYMMDD or _YYYYMM behind.';
COMMENT ON COLUMN pipeline.partitioned_tables.class IS 'Which setting says how long it is kept: facts (RETENTION_FACTS_DAYS) or marts (RETENTION_MARTS_DAYS).';
COMMENT ON COLUMN pipeline.partitioned_tables.step IS 'What one partition holds: a day or a month.';
COMMENT ON COLUMN pipeline.partitioned_tables.drop_order IS 'Of partitions that end on one day the lower goes first: first the certificates, without which everybody says that the day is not there; then what refers before what it refers to.';
COMMENT ON COLUMN pipeline.partitioned_tables.fillfactor IS 'Per cent of a page that inserts fill; less where rows are updated with each batch, so that their next version finds room beside them.';
INSERT INTO pipeline.partitioned_tables VALUES
    ('warehouse', 'books', 'facts', 'day', 10, 100),
    ('warehouse', 'book_pages', 'facts', 'day', 20, 100),
    ('warehouse', 'offer_versions', 'facts', 'day', 30, 100),
    ('pipeline', 'jobs', 'facts', 'day', 40, 100),
    ('warehouse', 'mart_book_methods', 'marts', 'month', 50, 100),
    ('warehouse', 'mart_books', 'marts', 'month', 60, 100),
    ('warehouse', 'mart_advertiser_days', 'marts', 'month', 70, 50),
    ('warehouse', 'mart_hours', 'marts', 'month', 80, 70);

CREATE TABLE pipeline.dropped_partitions (
    schema_name    text NOT NULL,
    partition_name text NOT NULL,
    table_name     text NOT NULL,
    first_day      date NOT NULL,
    last_day       date NOT NULL,
    bytes          bigint NOT NULL,
    estimated_rows bigint,
    decided_at     timestamptz NOT NULL,
    dropped_at     timestamptz,
    PRIMARY KEY (schema_name, partition_name),
    CHECK (last_day >= first_day)
);
COMMENT ON TABLE pipeline.dropped_partitions IS 'Partitions that were dropped by age, so that "dropped" is told from "never read". The row is written first: one without dropped_at is being dropped, and who finds it finishes it.';
COMMENT ON COLUMN pipeline.dropped_partitions.schema_name IS 'Schema of the partition.';
COMMENT ON COLUMN pipeline.dropped_partitions.partition_name IS 'Name of the partition.';
COMMENT ON COLUMN pipeline.dropped_partitions.table_name IS 'Table it belonged to (partitioned_tables).';
COMMENT ON COLUMN pipeline.dropped_partitions.first_day IS 'First UTC day that it held.';
COMMENT ON COLUMN pipeline.dropped_partitions.last_day IS 'Last UTC day that it held.';
COMMENT ON COLUMN pipeline.dropped_partitions.bytes IS 'Bytes on disk when this was decided, indexes included.';
COMMENT ON COLUMN pipeline.dropped_partitions.estimated_rows IS 'Rows by the statistics of the planner. NULL: it was never analyzed.';
COMMENT ON COLUMN pipeline.dropped_partitions.decided_at IS 'When it was decided.';
COMMENT ON COLUMN pipeline.dropped_partitions.dropped_at IS 'When it was gone. NULL: not yet, somebody still read it.';

-- Quarantine is deleted by age in chunks.
CREATE INDEX quarantine_day ON pipeline.quarantine (day);

-- Partitions that cover the days from first to last. A table is attached rather than made as a
-- partition: CREATE TABLE ... PARTITION OF takes ACCESS EXCLUSIVE on the parent, waits behind the
-- longest query, and all others wait behind it. ATTACH stands beside reading and writing.
-- SECURITY DEFINER, because the writer makes partitions and owns no tables.
CREATE OR REPLACE FUNCTION pipeline.make_partitions(first date, last date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    p record;
    made integer := 0;
BEGIN
    IF first IS NULL OR last IS NULL OR last - first NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'partitions from % to %: allowed are 0 to 400 days', first, last;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pipeline.make_partitions'));
    FOR p IN
        SELECT format('%I.%I', t.schema_name, t.table_name) AS parent,
               format('%I.%I', t.schema_name, t.table_name || to_char(s, CASE t.step WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END)) AS child,
               t.step, t.fillfactor, s::date AS from_day, (s + ('1 ' || t.step)::interval)::date AS to_day
          FROM pipeline.partitioned_tables t
         CROSS JOIN LATERAL generate_series(date_trunc(t.step, first::timestamp), last::timestamp, ('1 ' || t.step)::interval) AS s
         ORDER BY from_day, t.drop_order
    LOOP
        CONTINUE WHEN to_regclass(p.child) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL) WITH (fillfactor = %s)', p.child, p.parent, p.fillfactor);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           p.parent, p.child, p.from_day, p.to_day);
            EXECUTE format('COMMENT ON TABLE %s IS %L', p.child,
                           CASE p.step WHEN 'day' THEN 'Day ' || p.from_day ELSE 'Month ' || to_char(p.from_day, 'YYYY-MM') END
                           || ' of ' || p.parent || '.');
            made := made + 1;
        EXCEPTION WHEN lock_not_available THEN
            -- Somebody analyzes or alters the table. What is needed at once is an error; what is made
            -- ahead is made at the next batch.
            IF p.from_day <= first THEN
                RAISE;
            END IF;
            RAISE WARNING '% could not be made yet: %', p.child, SQLERRM;
            RETURN made;
        END;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION pipeline.make_partitions(date, date) FROM PUBLIC;
COMMENT ON FUNCTION pipeline.make_partitions(date, date) IS 'Makes the partitions of all partitioned tables (partitioned_tables) that cover the days from first to last; returns how many were made. With the rights of its owner.';

-- Roles belong to the cluster and not to the database: many databases of one cluster may make them at
-- once. Who comes second waits for the first and finds them there, with their settings.
CREATE FUNCTION pipeline.make_roles() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_reader') THEN
        BEGIN
            -- LOGIN, because settings of a role hold for those who log in as it and not for its members.
            CREATE ROLE p2p_reader LOGIN;
            ALTER ROLE p2p_reader SET search_path = warehouse;
            ALTER ROLE p2p_reader SET statement_timeout = '60s';
            ALTER ROLE p2p_reader SET idle_in_transaction_session_timeout = '5min';
            ALTER ROLE p2p_reader SET default_transaction_read_only = on;
            -- Compiling costs more than most questions take.
            ALTER ROLE p2p_reader SET jit = off;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_writer') THEN
        BEGIN
            CREATE ROLE p2p_writer LOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the roles p2p_reader and p2p_writer can''t be made by %: as a role with CREATEROLE run SELECT pipeline.make_roles(), then p2p migrate again', current_user;
    RETURN false;
END
$$;
REVOKE ALL ON FUNCTION pipeline.make_roles() FROM PUBLIC;
COMMENT ON FUNCTION pipeline.make_roles() IS 'Makes the roles p2p_reader and p2p_writer unless they are there; false if the caller may not.';

CREATE FUNCTION pipeline.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- What migrations and retention write, and nobody else. A writer of partitioned_tables would have
    -- tables made with the rights of the owner.
    kept CONSTANT text := 'warehouse.dim_exchanges, pipeline.partitioned_tables, pipeline.dropped_partitions';
    migrations CONSTANT regclass := to_regclass('public._sqlx_migrations');
    call text;
BEGIN
    -- Temporary tables are for everybody unless this is said; only the owner of the database may say it.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    -- Large objects can be written by everybody, and an advisory lock of ours taken by everybody, unless this is
    -- said; only a superuser may say it.
    BEGIN
        FOR call IN
            SELECT p.oid::regprocedure::text FROM pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^(lo_|lowrite$|pg_advisory_|pg_try_advisory_)'
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', call);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', call,
                           (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()));
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_writer') AND call LIKE '%advisory%' THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO p2p_writer', call);
            END IF;
        END LOOP;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'large objects and advisory locks stay open to every role of this database: only a superuser may close them (SELECT pipeline.grant_roles())';
    END;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_reader') THEN
        GRANT USAGE ON SCHEMA warehouse TO p2p_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA warehouse TO p2p_reader;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA warehouse TO p2p_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA warehouse GRANT SELECT ON TABLES TO p2p_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA warehouse GRANT EXECUTE ON FUNCTIONS TO p2p_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_writer') THEN
        -- The close of a batch works in temporary tables.
        EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO p2p_writer', current_database());
        GRANT USAGE ON SCHEMA warehouse, pipeline TO p2p_writer;
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA warehouse, pipeline TO p2p_writer;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA warehouse, pipeline TO p2p_writer;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA warehouse TO p2p_writer;
        GRANT EXECUTE ON FUNCTION pipeline.make_partitions(date, date) TO p2p_writer;
        -- Workers that were not seen for long are forgotten; nothing else is deleted.
        GRANT DELETE ON pipeline.workers TO p2p_writer;
        EXECUTE format('REVOKE INSERT, UPDATE ON %s FROM p2p_writer', kept);
        ALTER DEFAULT PRIVILEGES IN SCHEMA warehouse GRANT SELECT, INSERT, UPDATE ON TABLES TO p2p_writer;
        ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT SELECT, INSERT, UPDATE ON TABLES TO p2p_writer;
        ALTER DEFAULT PRIVILEGES IN SCHEMA warehouse GRANT USAGE ON SEQUENCES TO p2p_writer;
        ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT USAGE ON SEQUENCES TO p2p_writer;
        IF migrations IS NOT NULL THEN
            -- Every program looks whether the schema is new enough.
            EXECUTE format('GRANT SELECT ON %s TO p2p_writer', migrations);
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION pipeline.grant_roles() FROM PUBLIC;
COMMENT ON FUNCTION pipeline.grant_roles() IS 'Gives p2p_reader and p2p_writer, where they are there, what they need in this database, now and for what the caller makes later. Changes nothing when run again.';

SELECT pipeline.make_roles();
SELECT pipeline.grant_roles();
