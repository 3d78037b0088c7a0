-- What recovery and the ledger's answers need: fencing of leaders, who works, sums of closed batches.

CREATE TABLE pipeline.leaders (
    exchange_id      smallint PRIMARY KEY REFERENCES warehouse.dim_exchanges,
    epoch            bigint NOT NULL,
    coordinator_id   text NOT NULL,
    leading_since    timestamptz NOT NULL,
    interval_seconds integer
);
COMMENT ON TABLE pipeline.leaders IS 'Who leads. Every write of a coordinator is bound to the epoch under which it began to lead: a leader that was replaced writes nothing any more, however late it wakes up.';
COMMENT ON COLUMN pipeline.leaders.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.leaders.epoch IS 'Counts leaderships; grows by one with each.';
COMMENT ON COLUMN pipeline.leaders.coordinator_id IS 'Host and process of the latest leader.';
COMMENT ON COLUMN pipeline.leaders.leading_since IS 'When it began to lead.';
COMMENT ON COLUMN pipeline.leaders.interval_seconds IS 'Seconds between slots of the schedule that was last kept. NULL: no schedule was ever kept, only single batches.';

CREATE TABLE pipeline.workers (
    worker_id           text PRIMARY KEY,
    exchange_id         smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    egress_id           text NOT NULL,
    requests_per_minute integer NOT NULL,
    started_at          timestamptz NOT NULL,
    seen_at             timestamptz NOT NULL
);
COMMENT ON TABLE pipeline.workers IS 'Workers that were seen lately, each with its egress: what the planner may count on.';
COMMENT ON COLUMN pipeline.workers.worker_id IS 'Worker.';
COMMENT ON COLUMN pipeline.workers.exchange_id IS 'Exchange it asks.';
COMMENT ON COLUMN pipeline.workers.egress_id IS 'Egress of its requests; workers of one egress share its limit.';
COMMENT ON COLUMN pipeline.workers.requests_per_minute IS 'Rate of the limit of its egress, as the worker last knew it.';
COMMENT ON COLUMN pipeline.workers.started_at IS 'When it started.';
COMMENT ON COLUMN pipeline.workers.seen_at IS 'When it was last seen alive; one not seen for a minute is not counted on, one not seen for a day is forgotten.';

ALTER TABLE pipeline.batches
    ADD COLUMN egresses smallint,
    ADD COLUMN closed_by text,
    ADD COLUMN announced_at timestamptz,
    ADD COLUMN pages_read integer,
    ADD COLUMN pages_lost integer,
    ADD COLUMN pages_shed integer,
    ADD COLUMN pages_reread integer,
    ADD COLUMN lists_lost integer,
    ADD COLUMN ads integer,
    ADD COLUMN ads_refused integer,
    ADD COLUMN ads_missed integer,
    ADD COLUMN requests integer,
    ADD COLUMN books integer,
    ADD COLUMN books_complete integer;
COMMENT ON COLUMN pipeline.batches.egresses IS 'Egresses that the budget counts on. NULL: not planned yet.';
COMMENT ON COLUMN pipeline.batches.closed_by IS 'Host and process of the coordinator that closed it. NULL: open, or closed before this was recorded.';
COMMENT ON COLUMN pipeline.batches.announced_at IS 'When the broker took the event that tells of its close. NULL: not yet; the leader goes on trying.';
COMMENT ON COLUMN pipeline.batches.pages_read IS 'Pages read, with or without ads. NULL, here and in the other sums: open, or closed before they were recorded.';
COMMENT ON COLUMN pipeline.batches.pages_lost IS 'Pages failed, expired, or declared by the exchange and not reached before the deadline.';
COMMENT ON COLUMN pipeline.batches.pages_shed IS 'Pages left out for want of budget.';
COMMENT ON COLUMN pipeline.batches.pages_reread IS 'Readings beyond the first of a page, because its book moved.';
COMMENT ON COLUMN pipeline.batches.lists_lost IS 'Lists of fiats or assets that were not read.';
COMMENT ON COLUMN pipeline.batches.ads IS 'Different ads, summed over the books.';
COMMENT ON COLUMN pipeline.batches.ads_refused IS 'Ads in quarantine.';
COMMENT ON COLUMN pipeline.batches.ads_missed IS 'Ads that the books lack by their own estimate.';
COMMENT ON COLUMN pipeline.batches.requests IS 'Requests sent by workers that lived to tell.';
COMMENT ON COLUMN pipeline.batches.books IS 'Books, with those left out.';
COMMENT ON COLUMN pipeline.batches.books_complete IS 'Books certified complete or empty.';

-- Batches closed before this column was there were announced by the programs of that time.
UPDATE pipeline.batches SET announced_at = closed_at;

ALTER TABLE pipeline.catalog ADD COLUMN changes_per_hour integer;
COMMENT ON COLUMN pipeline.catalog.is_listed IS 'Whether the list of assets of its fiat names it for the side. Whether the fiat is listed at all, fiat_catalog says.';
COMMENT ON COLUMN pipeline.catalog.changes_per_hour IS 'Ads that came or changed per hour, smoothed over the readings: what a fresh reading is worth. NULL: read fewer than two times.';

ALTER TABLE warehouse.books ADD COLUMN is_listed boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN warehouse.books.is_listed IS 'Whether the exchange still listed the market when the batch closed: an empty book of a market that is not listed is gone, not empty.';

COMMENT ON COLUMN pipeline.jobs.attempts IS 'Requests made for the job by all workers that lived to tell, those included whose answer came too late to be stored.';
