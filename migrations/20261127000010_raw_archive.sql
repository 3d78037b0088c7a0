-- The bytes of every answer that led to a stored or refused page, so that each fact can be read again
-- from what the exchange sent. Kept for days, within a budget of bytes.

CREATE TABLE pipeline.raw_dictionaries (
    dictionary_id      integer PRIMARY KEY,
    exchange_id        smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    content            bytea NOT NULL,
    trained_at         timestamptz NOT NULL,
    samples            integer NOT NULL,
    test_ads           integer NOT NULL,
    test_bytes         bigint NOT NULL,
    test_bytes_plain   bigint NOT NULL,
    test_bytes_trained bigint NOT NULL
);
COMMENT ON TABLE pipeline.raw_dictionaries IS 'zstd dictionaries trained on archived answers. One that a row of raw_pages names is needed to read it.';
COMMENT ON COLUMN pipeline.raw_dictionaries.dictionary_id IS 'Number of the dictionary as zstd writes it into each frame.';
COMMENT ON COLUMN pipeline.raw_dictionaries.exchange_id IS 'Exchange on whose answers it was trained.';
COMMENT ON COLUMN pipeline.raw_dictionaries.content IS 'The dictionary, as zstd made it.';
COMMENT ON COLUMN pipeline.raw_dictionaries.trained_at IS 'When it was trained.';
COMMENT ON COLUMN pipeline.raw_dictionaries.samples IS 'Answers it was trained on.';
COMMENT ON COLUMN pipeline.raw_dictionaries.test_ads IS 'Ads of answers that were held back from the training, on which it was measured.';
COMMENT ON COLUMN pipeline.raw_dictionaries.test_bytes IS 'Bytes of those answers with their requests and headers.';
COMMENT ON COLUMN pipeline.raw_dictionaries.test_bytes_plain IS 'The same compressed without a dictionary.';
COMMENT ON COLUMN pipeline.raw_dictionaries.test_bytes_trained IS 'The same compressed with this dictionary.';

CREATE TABLE pipeline.raw_pages (
    day            date NOT NULL,
    batch_id       integer NOT NULL,
    ordinal        integer NOT NULL,
    fetched_at     timestamptz NOT NULL,
    http_status    smallint NOT NULL,
    parser_version smallint NOT NULL,
    dictionary_id  integer,
    request_bytes  integer NOT NULL,
    headers_bytes  integer NOT NULL,
    body_bytes     integer NOT NULL,
    ads            smallint NOT NULL,
    egress_id      text NOT NULL,
    content        bytea NOT NULL,
    PRIMARY KEY (day, batch_id, ordinal)
) PARTITION BY RANGE (day);
-- It is compressed already. Inline it would take one per cent less room, and questions about all but the bytes would
-- read five times as much.
ALTER TABLE pipeline.raw_pages ALTER COLUMN content SET STORAGE EXTERNAL;
-- Which dictionaries are needed still. Equal keys share an entry: a few bytes per answer.
CREATE INDEX raw_pages_dictionary ON pipeline.raw_pages (dictionary_id);
COMMENT ON TABLE pipeline.raw_pages IS 'The raw archive: the answer that ended each job, byte for byte, with its request. Of which market and page it is, the job says (jobs).';
COMMENT ON COLUMN pipeline.raw_pages.day IS 'UTC day of the batch; partition key.';
COMMENT ON COLUMN pipeline.raw_pages.batch_id IS 'Batch.';
COMMENT ON COLUMN pipeline.raw_pages.ordinal IS 'Job (jobs). If it was issued more than once, the answer to the last issue that had one.';
COMMENT ON COLUMN pipeline.raw_pages.fetched_at IS 'When the last byte of the answer had arrived.';
COMMENT ON COLUMN pipeline.raw_pages.http_status IS 'Status of the answer.';
COMMENT ON COLUMN pipeline.raw_pages.parser_version IS 'Version of the parser that read it when it came.';
COMMENT ON COLUMN pipeline.raw_pages.dictionary_id IS 'Dictionary that content needs (raw_dictionaries). NULL: none.';
COMMENT ON COLUMN pipeline.raw_pages.request_bytes IS 'Length of the request in the unpacked content, which begins with it.';
COMMENT ON COLUMN pipeline.raw_pages.headers_bytes IS 'Length of the headers of the answer, which follow.';
COMMENT ON COLUMN pipeline.raw_pages.body_bytes IS 'Length of the body, which follows: as sent, after its transfer compression was undone.';
COMMENT ON COLUMN pipeline.raw_pages.ads IS 'Ads in the body, taken or refused; 0 where it has none or could not be read.';
COMMENT ON COLUMN pipeline.raw_pages.egress_id IS 'Egress of the request.';
COMMENT ON COLUMN pipeline.raw_pages.content IS 'Request (method, path and body), headers that matter and body, one after the other, as one zstd frame.';

ALTER TABLE pipeline.partitioned_tables DROP CONSTRAINT partitioned_tables_class_check;
ALTER TABLE pipeline.partitioned_tables ADD CONSTRAINT partitioned_tables_class_check CHECK (class IN ('facts', 'marts', 'raw'));
COMMENT ON COLUMN pipeline.partitioned_tables.class IS 'Which setting says how long it is kept: facts (RETENTION_FACTS_DAYS), marts (RETENTION_MARTS_DAYS) or raw (RETENTION_RAW_DAYS, and RAW_ARCHIVE_MB).';
INSERT INTO pipeline.partitioned_tables VALUES ('pipeline', 'raw_pages', 'raw', 'day', 5, 100);

-- Silence is a bug: when nothing was archived is written down.
CREATE TABLE pipeline.raw_suspensions (
    suspension_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id   smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    reason        text NOT NULL CHECK (reason IN ('budget', 'off')),
    from_at       timestamptz NOT NULL,
    to_at         timestamptz,
    bytes         bigint NOT NULL,
    budget_bytes  bigint NOT NULL,
    CHECK (to_at >= from_at)
);
CREATE UNIQUE INDEX raw_suspensions_open ON pipeline.raw_suspensions (exchange_id) WHERE to_at IS NULL;
COMMENT ON TABLE pipeline.raw_suspensions IS 'Times in which no answer was archived. Workers learn of a change within a sign of life (10 s).';
COMMENT ON COLUMN pipeline.raw_suspensions.suspension_id IS 'Key.';
COMMENT ON COLUMN pipeline.raw_suspensions.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.raw_suspensions.reason IS 'budget: the archive was larger than RAW_ARCHIVE_MB allows, and no older day could go. off: RAW_ARCHIVE_MB was 0.';
COMMENT ON COLUMN pipeline.raw_suspensions.from_at IS 'When it began.';
COMMENT ON COLUMN pipeline.raw_suspensions.to_at IS 'When it ended. NULL: it lasts.';
COMMENT ON COLUMN pipeline.raw_suspensions.bytes IS 'Bytes of the archive when it began.';
COMMENT ON COLUMN pipeline.raw_suspensions.budget_bytes IS 'Bytes that were allowed then.';

CREATE TABLE pipeline.raw_state (
    exchange_id  smallint PRIMARY KEY REFERENCES warehouse.dim_exchanges,
    bytes        bigint NOT NULL,
    budget_bytes bigint NOT NULL,
    looked_at    timestamptz NOT NULL
);
COMMENT ON TABLE pipeline.raw_state IS 'The raw archive as the leader of the exchange last saw it. The archive is one for all exchanges.';
COMMENT ON COLUMN pipeline.raw_state.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.raw_state.bytes IS 'Bytes of its days, with indexes.';
COMMENT ON COLUMN pipeline.raw_state.budget_bytes IS 'Bytes that it may have: RAW_ARCHIVE_MB of the leader. 0: nothing is archived.';
COMMENT ON COLUMN pipeline.raw_state.looked_at IS 'When the leader looked.';

-- A day may go when neither the newest batch nor an open one is of it: pages of these may still come.
CREATE FUNCTION pipeline.raw_days() RETURNS TABLE (day date, bytes bigint, may_go boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.day, p.bytes,
           coalesce(p.day < least((SELECT b.day FROM pipeline.batches b ORDER BY b.batch_id DESC LIMIT 1),
                                  (SELECT min(b.day) FROM pipeline.batches b WHERE b.state = 'open')), false)
      FROM (SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([0-9-]+)''\)')::date AS day,
                   coalesce(pg_total_relation_size(c.oid), 0) AS bytes
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'pipeline.raw_pages'::regclass) p
$$;
COMMENT ON FUNCTION pipeline.raw_days() IS 'Days of the raw archive (raw_pages), also those made ahead: bytes with indexes, and whether the day may be dropped to make room.';

ALTER TABLE pipeline.dropped_partitions
    ADD COLUMN reason text NOT NULL DEFAULT 'age' CHECK (reason IN ('age', 'budget'));
COMMENT ON COLUMN pipeline.dropped_partitions.reason IS 'age: it was older than its setting keeps. budget: the raw archive was larger than RAW_ARCHIVE_MB.';
COMMENT ON TABLE pipeline.dropped_partitions IS 'Partitions that were dropped by age or for want of room, so that "dropped" is told from "never read". The row is written first: one without dropped_at is being dropped, and who finds it finishes it.';

-- Which parser made the facts of a page.
ALTER TABLE warehouse.book_pages ADD COLUMN parser_version smallint, ADD COLUMN is_lenient boolean;
COMMENT ON COLUMN warehouse.book_pages.parser_version IS 'Version of the parser that made these facts from the answer. NULL: stored before this was recorded.';
COMMENT ON COLUMN warehouse.book_pages.is_lenient IS 'Whether the lenient fallback parser was needed for an ad of the page: a field stood elsewhere or had another type. NULL: stored before this was recorded.';

SELECT pipeline.grant_roles();
