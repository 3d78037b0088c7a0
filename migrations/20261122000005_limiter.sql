-- What the coordinator must know of the limiters: the rate as it is now, and the breakers. And which
-- errors requests met.

ALTER TABLE pipeline.workers
    ADD COLUMN breaker_open_until timestamptz,
    ADD COLUMN breaker_openings integer NOT NULL DEFAULT 0,
    ADD COLUMN breaker_opened_at timestamptz;
COMMENT ON COLUMN pipeline.workers.requests_per_minute IS 'Rate of the limit of its egress when it was last seen: it follows what the exchange takes. While Redis is away the minimum rate.';
COMMENT ON COLUMN pipeline.workers.breaker_open_until IS 'When the open circuit breaker of its egress will let a request try. NULL: it is not open, and requests are sent.';
COMMENT ON COLUMN pipeline.workers.breaker_openings IS 'Times that the breaker of its egress opened since a request last succeeded.';
COMMENT ON COLUMN pipeline.workers.breaker_opened_at IS 'When the breaker of its egress last opened. NULL: never. With all egresses open, for the third time or more and in this batch, or until after its deadline, a batch is cut short.';

ALTER TABLE pipeline.jobs ADD COLUMN errors text[];
COMMENT ON COLUMN pipeline.jobs.errors IS 'Classes of the errors that its requests met, in order and of all issues, also of those after which a further try went well; at most 50 of an issue. NULL: none.';
ALTER TABLE pipeline.batches ADD COLUMN requests_failed integer;
COMMENT ON COLUMN pipeline.batches.requests_failed IS 'Requests that met an error, also those after which a further try went well. NULL: as pages_read.';
COMMENT ON COLUMN pipeline.jobs.reason IS 'Class of the error of failed; budget of shed; no_ads or beyond_last_page of empty; deadline or breaker_open of expired. NULL: done, or not ended.';
