-- What operators ask of the leader: a row, so that it is not lost with a connection or a leader, and so
-- that who asked, why, and what came of it stay known.

CREATE TABLE pipeline.requests (
    request_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id    smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    kind           text NOT NULL CHECK (kind IN ('cancel', 'rerun')),
    batch_id       integer REFERENCES pipeline.batches,
    slot_at        timestamptz,
    lost_only      boolean NOT NULL DEFAULT false,
    why            text NOT NULL CHECK (length(why) BETWEEN 1 AND 500),
    asked_by       text NOT NULL,
    asked_at       timestamptz NOT NULL DEFAULT now(),
    state          text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'done', 'refused')),
    answer         text,
    made_batch_id  integer REFERENCES pipeline.batches,
    answered_by    text,
    answered_at    timestamptz,
    CHECK (kind <> 'cancel' OR batch_id IS NOT NULL AND NOT lost_only),
    CHECK (NOT lost_only OR batch_id IS NOT NULL),
    CHECK ((state = 'asked') = (answered_at IS NULL)),
    CHECK ((state = 'refused') = (answer IS NOT NULL)),
    CHECK (made_batch_id IS NULL OR kind = 'rerun' AND state = 'done')
);
-- One of each waits at most: asking twice is no second batch.
CREATE UNIQUE INDEX requests_asked_cancel ON pipeline.requests (batch_id) WHERE state = 'asked' AND kind = 'cancel';
CREATE UNIQUE INDEX requests_asked_rerun ON pipeline.requests (exchange_id) WHERE state = 'asked' AND kind = 'rerun';
CREATE INDEX requests_made_batch ON pipeline.requests (made_batch_id) WHERE made_batch_id IS NOT NULL;
COMMENT ON TABLE pipeline.requests IS 'What operators asked of the leader, and what came of it. The leader looks every few seconds; without one a request waits.';
COMMENT ON COLUMN pipeline.requests.request_id IS 'Key; grows with time.';
COMMENT ON COLUMN pipeline.requests.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.requests.kind IS 'cancel: close the batch now. rerun: a batch between two slots.';
COMMENT ON COLUMN pipeline.requests.batch_id IS 'The batch to cancel, or the one to make good. NULL: a rerun of no batch in particular.';
COMMENT ON COLUMN pipeline.requests.slot_at IS 'Slot that a rerun makes good. NULL: none was named, or a cancel.';
COMMENT ON COLUMN pipeline.requests.lost_only IS 'Whether a rerun reads only the markets of which batch_id lost or left out a page, and not the whole plan.';
COMMENT ON COLUMN pipeline.requests.why IS 'Why, in the words of who asked.';
COMMENT ON COLUMN pipeline.requests.asked_by IS 'Who asked: user and host as the program was told, and the role in the database.';
COMMENT ON COLUMN pipeline.requests.asked_at IS 'When it was asked.';
COMMENT ON COLUMN pipeline.requests.state IS 'asked, then for good: done (the batch was cancelled, or one was opened) or refused.';
COMMENT ON COLUMN pipeline.requests.answer IS 'Why it was refused. NULL: it was not.';
COMMENT ON COLUMN pipeline.requests.made_batch_id IS 'The batch that was opened for a rerun. NULL: none, or a cancel.';
COMMENT ON COLUMN pipeline.requests.answered_by IS 'Host and process of the leader that answered. NULL: not answered yet.';
COMMENT ON COLUMN pipeline.requests.answered_at IS 'When it was answered. NULL: not yet.';

COMMENT ON COLUMN pipeline.jobs.reason IS 'Class of the error of failed; budget of shed; no_ads or beyond_last_page of empty; deadline, breaker_open or cancelled of expired. NULL: done, or not ended.';

SELECT pipeline.grant_roles();
