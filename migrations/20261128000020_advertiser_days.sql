DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'PostgreSQL % is too old: needed is 15, for MERGE', current_setting('server_version');
    END IF;
END
$$;

-- Each batch adds to the rows of its day, which stand together among those of a month.
CREATE INDEX mart_advertiser_days_day ON warehouse.mart_advertiser_days USING brin (day) WITH (autosummarize = on);
