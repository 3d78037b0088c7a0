-- Replay and quarantine: what became of each entry, who replayed what, and which books are to be made
-- again because their facts were corrected.

ALTER TABLE pipeline.quarantine
    ADD COLUMN state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'resolved', 'discarded')),
    ADD COLUMN closed_at timestamptz,
    ADD COLUMN closed_by text,
    ADD COLUMN closed_parser_version smallint,
    ADD COLUMN note text,
    ADD COLUMN tries integer NOT NULL DEFAULT 0,
    ADD COLUMN tried_at timestamptz,
    ADD COLUMN tried_parser_version smallint,
    ADD COLUMN tried_reason text,
    ADD COLUMN tried_detail text,
    ADD CONSTRAINT quarantine_closed_check CHECK ((state = 'open') = (closed_at IS NULL));
CREATE INDEX quarantine_open ON pipeline.quarantine (quarantined_at) WHERE state = 'open';
COMMENT ON COLUMN pipeline.quarantine.state IS 'open; resolved: it was taken by a later parser, or its page was read again; discarded: an operator said that it is not worth taking.';
COMMENT ON COLUMN pipeline.quarantine.closed_at IS 'When it was resolved or discarded. NULL: open.';
COMMENT ON COLUMN pipeline.quarantine.closed_by IS 'Who closed it: role, host and process. NULL: open.';
COMMENT ON COLUMN pipeline.quarantine.closed_parser_version IS 'Version of the parser that took it. NULL: open, discarded, or its page was read again.';
COMMENT ON COLUMN pipeline.quarantine.note IS 'Why it was discarded, or what took it. NULL: open.';
COMMENT ON COLUMN pipeline.quarantine.tries IS 'Times that it was parsed again and refused again.';
COMMENT ON COLUMN pipeline.quarantine.tried_at IS 'When it was last parsed again and refused again. NULL: never.';
COMMENT ON COLUMN pipeline.quarantine.tried_parser_version IS 'Version of the parser of that try. NULL: never tried.';
COMMENT ON COLUMN pipeline.quarantine.tried_reason IS 'Class of the refusal of that try. NULL: never tried.';
COMMENT ON COLUMN pipeline.quarantine.tried_detail IS 'That refusal in words, with the path of the field. NULL: never tried.';

CREATE TABLE pipeline.replays (
    replay_id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('replay', 'retry')),
    exchange_id     smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    from_at         timestamptz,
    to_at           timestamptz,
    market_id       integer,
    parser_version  smallint NOT NULL,
    started_by      text NOT NULL,
    started_at      timestamptz NOT NULL,
    facts_at        timestamptz,
    finished_at     timestamptz,
    counts          jsonb
);
COMMENT ON TABLE pipeline.replays IS 'One row per replay of archived answers, or retry from quarantine, that was to change facts. One that lacks finished_at was cut off, or is running.';
COMMENT ON COLUMN pipeline.replays.replay_id IS 'Key.';
COMMENT ON COLUMN pipeline.replays.kind IS 'replay: answers of the archive. retry: entries of the quarantine.';
COMMENT ON COLUMN pipeline.replays.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.replays.from_at IS 'Earliest slot of its batches. NULL: a retry.';
COMMENT ON COLUMN pipeline.replays.to_at IS 'Latest slot of its batches. NULL: a retry.';
COMMENT ON COLUMN pipeline.replays.market_id IS 'The one market (dim_markets) that was replayed. NULL: all, or a retry.';
COMMENT ON COLUMN pipeline.replays.parser_version IS 'Version of the parser whose facts were stored.';
COMMENT ON COLUMN pipeline.replays.started_by IS 'Role, host and process that ran it.';
COMMENT ON COLUMN pipeline.replays.started_at IS 'When it began.';
COMMENT ON COLUMN pipeline.replays.facts_at IS 'When all facts were corrected. NULL: running, or cut off before.';
COMMENT ON COLUMN pipeline.replays.finished_at IS 'When certificates, marts and latest state were made again, by it or by who finished it. NULL: not yet.';
COMMENT ON COLUMN pipeline.replays.counts IS 'What it found, by the names of p2p replay --json. NULL: cut off before all facts were corrected, or a retry.';

CREATE TABLE pipeline.remakes (
    batch_id  integer NOT NULL,
    market_id integer NOT NULL,
    noted_at  timestamptz NOT NULL,
    made_at   timestamptz,
    PRIMARY KEY (batch_id, market_id)
);
CREATE INDEX remakes_pending ON pipeline.remakes (batch_id) WHERE made_at IS NULL;
COMMENT ON TABLE pipeline.remakes IS 'Books whose facts were corrected after their batch had closed. Noted in the transaction that corrects them, so that whoever is killed before the certificates and marts are made again leaves a note.';
COMMENT ON COLUMN pipeline.remakes.batch_id IS 'Batch (pipeline.batches).';
COMMENT ON COLUMN pipeline.remakes.market_id IS 'Market (dim_markets); 0: no book, only the sums of the batch.';
COMMENT ON COLUMN pipeline.remakes.noted_at IS 'When its facts were last corrected.';
COMMENT ON COLUMN pipeline.remakes.made_at IS 'When certificate, marts, latest state and catalog were made again. NULL: not yet.';

SELECT pipeline.grant_roles();
