-- The ledger: every slot, batch and job ends in a recorded state. PostgreSQL holds the truth; queue
-- messages and Redis keys can be lost at any time.

CREATE TABLE pipeline.batches (
    batch_id       integer PRIMARY KEY,
    day            date NOT NULL,
    exchange_id    smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    slot_at        timestamptz NOT NULL,
    trigger        text NOT NULL CHECK (trigger IN ('schedule', 'once')),
    state          text NOT NULL CHECK (state IN ('open', 'closed')),
    outcome        text CHECK (outcome IN ('complete', 'partial', 'failed')),
    reason         text,
    request_budget integer,
    opened_by      text NOT NULL,
    opened_at      timestamptz NOT NULL,
    planned_at     timestamptz,
    deadline_at    timestamptz NOT NULL,
    closed_at      timestamptz,
    CHECK (batch_id >> 9 = day - DATE '1970-01-01'),
    CHECK ((state = 'closed') = (outcome IS NOT NULL)),
    CHECK ((state = 'closed') = (closed_at IS NOT NULL))
);
CREATE INDEX batches_open ON pipeline.batches (exchange_id) WHERE state = 'open';
COMMENT ON TABLE pipeline.batches IS 'One row per batch: one cycle over the market.';
COMMENT ON COLUMN pipeline.batches.batch_id IS 'Days since 1970 (high bits) and number of the batch within its day (low 9 bits).';
COMMENT ON COLUMN pipeline.batches.day IS 'UTC day of slot_at: the day of all its facts, even of pages read after midnight.';
COMMENT ON COLUMN pipeline.batches.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.batches.slot_at IS 'The instant the batch was due.';
COMMENT ON COLUMN pipeline.batches.trigger IS 'schedule: a slot. once: an operator asked for it.';
COMMENT ON COLUMN pipeline.batches.state IS 'open or closed.';
COMMENT ON COLUMN pipeline.batches.outcome IS 'complete: every planned page ended done or empty, every ad was taken; a lost list of payment methods does not count. partial: something was lost or left out. failed: nothing was read. NULL: open.';
COMMENT ON COLUMN pipeline.batches.reason IS 'Why it is not complete, in words. NULL: complete or open.';
COMMENT ON COLUMN pipeline.batches.request_budget IS 'Requests that the limit could grant until the deadline, when the pages were planned. NULL: not planned yet.';
COMMENT ON COLUMN pipeline.batches.opened_by IS 'Host and process of the coordinator that opened it.';
COMMENT ON COLUMN pipeline.batches.opened_at IS 'When it was opened.';
COMMENT ON COLUMN pipeline.batches.planned_at IS 'When its pages were planned. NULL: still discovering.';
COMMENT ON COLUMN pipeline.batches.deadline_at IS 'When it is cut.';
COMMENT ON COLUMN pipeline.batches.closed_at IS 'When it was closed. NULL: open.';

CREATE TABLE pipeline.slots (
    exchange_id smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    slot_at     timestamptz NOT NULL,
    batch_id    integer REFERENCES pipeline.batches,
    state       text NOT NULL CHECK (state IN ('batch', 'skipped')),
    reason      text,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (exchange_id, slot_at),
    CHECK ((state = 'batch') = (batch_id IS NOT NULL)),
    CHECK ((state = 'skipped') = (reason IS NOT NULL))
);
COMMENT ON TABLE pipeline.slots IS 'One row per slot of the schedule that came due: what became of it.';
COMMENT ON COLUMN pipeline.slots.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.slots.slot_at IS 'The instant a batch was due.';
COMMENT ON COLUMN pipeline.slots.batch_id IS 'The batch that took the slot. NULL: skipped.';
COMMENT ON COLUMN pipeline.slots.state IS 'batch: a batch took it. skipped: none did.';
COMMENT ON COLUMN pipeline.slots.reason IS 'Why it was skipped: missed (nobody led), late (found after the misfire grace). NULL: not skipped.';
COMMENT ON COLUMN pipeline.slots.recorded_at IS 'When this was recorded.';

CREATE TABLE pipeline.jobs (
    day            date NOT NULL,
    batch_id       integer NOT NULL,
    ordinal        integer NOT NULL CHECK (ordinal BETWEEN 0 AND 131071),
    kind           text NOT NULL CHECK (kind IN ('fiat_list', 'assets', 'payment_methods', 'search')),
    market_id      integer,
    fiat_id        integer,
    page           smallint,
    urgent         boolean NOT NULL,
    ads_expected   boolean NOT NULL,
    state          text NOT NULL DEFAULT 'planned'
                   CHECK (state IN ('planned', 'published', 'done', 'empty', 'failed', 'expired', 'shed')),
    reason         text,
    detail         text,
    issue          smallint NOT NULL DEFAULT 1,
    attempts       smallint NOT NULL DEFAULT 0,
    http_status    smallint,
    declared_total integer,
    ads_taken      smallint,
    ads_refused    smallint,
    planned_at     timestamptz NOT NULL,
    published_at   timestamptz,
    requested_at   timestamptz,
    fetched_at     timestamptz,
    ended_at       timestamptz,
    expires_at     timestamptz NOT NULL,
    worker_id      text,
    egress_id      text,
    PRIMARY KEY (day, batch_id, ordinal),
    CHECK ((kind = 'search') = (market_id IS NOT NULL AND page IS NOT NULL)),
    CHECK ((state IN ('planned', 'published')) = (ended_at IS NULL)),
    CHECK (state NOT IN ('failed', 'shed') OR reason IS NOT NULL)
) PARTITION BY RANGE (day);
COMMENT ON TABLE pipeline.jobs IS 'The ledger: every unit of work that was planned and how it ended.';
COMMENT ON COLUMN pipeline.jobs.day IS 'UTC day of the batch; partition key.';
COMMENT ON COLUMN pipeline.jobs.batch_id IS 'Batch.';
COMMENT ON COLUMN pipeline.jobs.ordinal IS 'Number of the job in its batch, in plan order, from 0; part of the id of the versions it saw first.';
COMMENT ON COLUMN pipeline.jobs.kind IS 'fiat_list, assets and payment_methods discover; search reads a page of ads.';
COMMENT ON COLUMN pipeline.jobs.market_id IS 'Market of a search. NULL: discovery.';
COMMENT ON COLUMN pipeline.jobs.fiat_id IS 'Fiat of assets and payment_methods. NULL: the others.';
COMMENT ON COLUMN pipeline.jobs.page IS 'Page of a search, from 1. NULL: discovery.';
COMMENT ON COLUMN pipeline.jobs.urgent IS 'Whether it goes to the queue that is taken first: discovery, and the rest of books already begun.';
COMMENT ON COLUMN pipeline.jobs.ads_expected IS 'Whether the last reading lets expect ads on this page; an empty answer is then read again before it is believed.';
COMMENT ON COLUMN pipeline.jobs.state IS 'planned, published, then for good: done, empty (no ads there), failed, expired (batch deadline), shed (not read for want of budget).';
COMMENT ON COLUMN pipeline.jobs.reason IS 'Class of the error of failed; budget of shed; no_ads or beyond_last_page of empty; deadline of expired. NULL: done, or not ended.';
COMMENT ON COLUMN pipeline.jobs.detail IS 'The error in words. NULL: none.';
COMMENT ON COLUMN pipeline.jobs.issue IS 'How often the coordinator issued it, from 1; a result of an earlier issue is not taken.';
COMMENT ON COLUMN pipeline.jobs.attempts IS 'Requests made by the worker that ended it.';
COMMENT ON COLUMN pipeline.jobs.http_status IS 'Status of the last answer. NULL: no answer.';
COMMENT ON COLUMN pipeline.jobs.declared_total IS 'Total that the answer declared. NULL: not told or no answer.';
COMMENT ON COLUMN pipeline.jobs.ads_taken IS 'Ads stored. NULL: not a search, or no answer.';
COMMENT ON COLUMN pipeline.jobs.ads_refused IS 'Ads put into quarantine. NULL: not a search, or no answer.';
COMMENT ON COLUMN pipeline.jobs.planned_at IS 'When it was planned.';
COMMENT ON COLUMN pipeline.jobs.published_at IS 'When the broker last confirmed it. NULL: never published.';
COMMENT ON COLUMN pipeline.jobs.requested_at IS 'When the last request was sent. NULL: none was.';
COMMENT ON COLUMN pipeline.jobs.fetched_at IS 'When the last answer had arrived. NULL: none did.';
COMMENT ON COLUMN pipeline.jobs.ended_at IS 'When it ended. NULL: not yet.';
COMMENT ON COLUMN pipeline.jobs.expires_at IS 'Instant after which a worker does not begin it.';
COMMENT ON COLUMN pipeline.jobs.worker_id IS 'Worker that ended it. NULL: no worker did.';
COMMENT ON COLUMN pipeline.jobs.egress_id IS 'Egress of its requests. NULL: no request.';

CREATE TABLE pipeline.catalog (
    market_id          integer PRIMARY KEY REFERENCES warehouse.dim_markets,
    is_listed          boolean NOT NULL,
    listed_at          timestamptz NOT NULL,
    delisted_at        timestamptz,
    last_total         integer,
    last_read_at       timestamptz,
    last_batch_id      integer,
    consecutive_empty  integer NOT NULL DEFAULT 0,
    consecutive_shed   integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.catalog IS 'What the planner knows of each market.';
COMMENT ON COLUMN pipeline.catalog.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN pipeline.catalog.is_listed IS 'Whether the exchange offers it: its fiat is in the fiat list and its asset in the list of the fiat and side.';
COMMENT ON COLUMN pipeline.catalog.listed_at IS 'When it was last found listed.';
COMMENT ON COLUMN pipeline.catalog.delisted_at IS 'When it was first found missing. NULL: listed.';
COMMENT ON COLUMN pipeline.catalog.last_total IS 'Ads at the last reading. NULL: never read.';
COMMENT ON COLUMN pipeline.catalog.last_read_at IS 'Slot of the last batch that read it to the end. NULL: never read.';
COMMENT ON COLUMN pipeline.catalog.last_batch_id IS 'Last batch that stored pages of it, complete or not. NULL: none.';
COMMENT ON COLUMN pipeline.catalog.consecutive_empty IS 'Readings in a row that found no ads.';
COMMENT ON COLUMN pipeline.catalog.consecutive_shed IS 'Batches in a row that left it out for want of budget.';

CREATE TABLE pipeline.fiat_catalog (
    exchange_id             smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    fiat_id                 integer NOT NULL REFERENCES warehouse.dim_fiat_currencies,
    is_listed               boolean NOT NULL,
    listed_at               timestamptz NOT NULL,
    delisted_at             timestamptz,
    assets_read_at          timestamptz,
    payment_methods_read_at timestamptz,
    PRIMARY KEY (exchange_id, fiat_id)
);
COMMENT ON TABLE pipeline.fiat_catalog IS 'Fiats of each exchange and when their lists were last read.';
COMMENT ON COLUMN pipeline.fiat_catalog.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.fiat_catalog.fiat_id IS 'Fiat.';
COMMENT ON COLUMN pipeline.fiat_catalog.is_listed IS 'Whether the last fiat list named it. A fiat no longer listed answers empty, not with an error, so this tells gone from empty.';
COMMENT ON COLUMN pipeline.fiat_catalog.listed_at IS 'When a fiat list last named it.';
COMMENT ON COLUMN pipeline.fiat_catalog.delisted_at IS 'When a fiat list first lacked it. NULL: listed.';
COMMENT ON COLUMN pipeline.fiat_catalog.assets_read_at IS 'When its assets were last read. NULL: never.';
COMMENT ON COLUMN pipeline.fiat_catalog.payment_methods_read_at IS 'When its payment methods were last read. NULL: never.';

CREATE TABLE pipeline.exchange_catalog (
    exchange_id        smallint PRIMARY KEY REFERENCES warehouse.dim_exchanges,
    fiat_list_read_at  timestamptz NOT NULL
);
COMMENT ON TABLE pipeline.exchange_catalog IS 'When the list of fiats of each exchange was last read.';
COMMENT ON COLUMN pipeline.exchange_catalog.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.exchange_catalog.fiat_list_read_at IS 'When it was last read.';

CREATE TABLE pipeline.quarantine (
    quarantine_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day            date NOT NULL,
    batch_id       integer NOT NULL,
    ordinal        integer NOT NULL,
    scope          text NOT NULL CHECK (scope IN ('ad', 'answer')),
    position       smallint,
    adv_no         text,
    reason         text NOT NULL,
    field          text,
    detail         text NOT NULL,
    parser_version smallint NOT NULL,
    body           bytea NOT NULL,
    quarantined_at timestamptz NOT NULL
);
CREATE INDEX quarantine_job ON pipeline.quarantine (batch_id, ordinal);
COMMENT ON TABLE pipeline.quarantine IS 'What could not be taken, with its bytes: single ads of a page, and whole answers.';
COMMENT ON COLUMN pipeline.quarantine.quarantine_id IS 'Key.';
COMMENT ON COLUMN pipeline.quarantine.day IS 'UTC day of the batch.';
COMMENT ON COLUMN pipeline.quarantine.batch_id IS 'Batch.';
COMMENT ON COLUMN pipeline.quarantine.ordinal IS 'Job.';
COMMENT ON COLUMN pipeline.quarantine.scope IS 'ad: one ad of a page that was stored. answer: a whole answer.';
COMMENT ON COLUMN pipeline.quarantine.position IS 'Index of the ad in the answer, from 0. NULL: a whole answer.';
COMMENT ON COLUMN pipeline.quarantine.adv_no IS 'Number of the ad, if it could be read. NULL: it could not, or a whole answer.';
COMMENT ON COLUMN pipeline.quarantine.reason IS 'Class of the refusal.';
COMMENT ON COLUMN pipeline.quarantine.field IS 'Path of the offending field. NULL: the whole.';
COMMENT ON COLUMN pipeline.quarantine.detail IS 'The refusal in words.';
COMMENT ON COLUMN pipeline.quarantine.parser_version IS 'Version of the parser that refused it.';
COMMENT ON COLUMN pipeline.quarantine.body IS 'The bytes as sent.';
COMMENT ON COLUMN pipeline.quarantine.quarantined_at IS 'When it was refused.';

-- Daily partitions of all partitioned tables for the days from first to last. Called before a batch
-- is opened; a lock serialises callers because CREATE TABLE IF NOT EXISTS alone can collide.
CREATE FUNCTION pipeline.make_partitions(first date, last date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    d date;
    child text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pipeline.make_partitions'));
    FOREACH parent IN ARRAY ARRAY['warehouse.offer_versions', 'warehouse.book_pages', 'warehouse.books', 'pipeline.jobs'] LOOP
        d := first;
        WHILE d <= last LOOP
            child := parent || '_' || to_char(d, 'YYYYMMDD');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', child, parent, d, d + 1);
                EXECUTE format('COMMENT ON TABLE %s IS %L', child, 'Day ' || d || ' of ' || parent || '.');
                made := made + 1;
            END IF;
            d := d + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION pipeline.make_partitions(date, date) IS 'Makes the daily partitions of all partitioned tables from first to last; returns how many were made.';
