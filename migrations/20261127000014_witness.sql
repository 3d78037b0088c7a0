-- The independent witness: what another view of the exchange says of the top of a book, and how far it
-- agrees with ours.

ALTER TABLE pipeline.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE pipeline.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('fiat_list', 'assets', 'payment_methods', 'search', 'advertiser', 'witness_ads', 'witness_quote'));
ALTER TABLE pipeline.jobs ADD CONSTRAINT jobs_witness_check
    CHECK (kind NOT IN ('witness_ads', 'witness_quote') OR market_id IS NOT NULL);
COMMENT ON COLUMN pipeline.jobs.kind IS 'fiat_list, assets and payment_methods discover; search reads a page of ads; advertiser reads the page of an advertiser; witness_ads and witness_quote read the other view of a market, once, and cost a batch nothing if they fail.';
COMMENT ON COLUMN pipeline.jobs.market_id IS 'Market of a search or of its witness. NULL: the others.';
COMMENT ON COLUMN pipeline.jobs.ads_taken IS 'Ads stored; of an advertiser''s page, ads whose terms were taken; of witness_ads, ads it names. NULL: another list, or no answer.';

CREATE TABLE pipeline.witness_readings (
    day         date NOT NULL,
    batch_id    integer NOT NULL,
    ordinal     integer NOT NULL,
    market_id   integer NOT NULL,
    fetched_at  timestamptz NOT NULL,
    adv_nos     text[],
    prices      numeric(20, 8)[],
    unreadable  smallint,
    quote       numeric(20, 8),
    PRIMARY KEY (day, batch_id, ordinal),
    CHECK ((adv_nos IS NULL) = (prices IS NULL) AND (adv_nos IS NULL) = (unreadable IS NULL)),
    CHECK (adv_nos IS NULL OR cardinality(adv_nos) = cardinality(prices)),
    CHECK ((adv_nos IS NULL) <> (quote IS NULL))
) PARTITION BY RANGE (day);
COMMENT ON TABLE pipeline.witness_readings IS 'What the witness said: one row per job of kind witness_ads (a list of ads) or witness_quote (a price).';
COMMENT ON COLUMN pipeline.witness_readings.day IS 'UTC day of the batch; partition key.';
COMMENT ON COLUMN pipeline.witness_readings.batch_id IS 'Batch.';
COMMENT ON COLUMN pipeline.witness_readings.ordinal IS 'Job (jobs).';
COMMENT ON COLUMN pipeline.witness_readings.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN pipeline.witness_readings.fetched_at IS 'When the answer had arrived.';
COMMENT ON COLUMN pipeline.witness_readings.adv_nos IS 'Numbers of its ads (Binance: adNo), in its order. NULL: a quote.';
COMMENT ON COLUMN pipeline.witness_readings.prices IS 'Price of each, in fiat, in the order of adv_nos. NULL: a quote.';
COMMENT ON COLUMN pipeline.witness_readings.unreadable IS 'Entries of the list that could not be read. NULL: a quote.';
COMMENT ON COLUMN pipeline.witness_readings.quote IS 'The quoted price, in fiat. NULL: a list.';

CREATE TABLE pipeline.witness_checks (
    day           date NOT NULL,
    batch_id      integer NOT NULL,
    market_id     integer NOT NULL,
    verdict       text NOT NULL CHECK (verdict IN ('agree', 'disagree', 'unknown')),
    reason        text CHECK (reason IN ('not_read', 'no_ads', 'book_not_read', 'book_incomplete', 'too_far_apart')),
    witnessed_at  timestamptz,
    skew_ms       integer,
    witness_ads   smallint,
    compared      smallint,
    agreed        smallint,
    price_differs smallint,
    missing       smallint,
    lacking       smallint,
    explained     smallint,
    quote         numeric(20, 8),
    quote_verdict text CHECK (quote_verdict IN ('best', 'listed', 'within', 'outside', 'unknown')),
    quote_rank    integer,
    details       jsonb NOT NULL,
    PRIMARY KEY (day, batch_id, market_id),
    CHECK ((verdict = 'unknown') = (reason IS NOT NULL)),
    CHECK ((verdict = 'unknown') = (compared IS NULL)),
    CHECK (compared = agreed + price_differs + missing + lacking + explained)
) PARTITION BY RANGE (day);
COMMENT ON TABLE pipeline.witness_checks IS 'How far the witness agrees with our book: one row per market that a batch asked it about. Made when the batch closes.';
COMMENT ON COLUMN pipeline.witness_checks.day IS 'UTC day of the batch; partition key.';
COMMENT ON COLUMN pipeline.witness_checks.batch_id IS 'Batch.';
COMMENT ON COLUMN pipeline.witness_checks.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN pipeline.witness_checks.verdict IS 'agree: every ad agrees, or its difference is explained by movement. disagree: some do not. unknown: nothing could be compared.';
COMMENT ON COLUMN pipeline.witness_checks.reason IS 'Of unknown: not_read (the witness gave no list that can be read), no_ads (it names none), book_not_read, book_incomplete (pages of our book are missing), too_far_apart (the two were read too long after each other). NULL: compared.';
COMMENT ON COLUMN pipeline.witness_checks.witnessed_at IS 'When the list of the witness arrived. NULL: not read.';
COMMENT ON COLUMN pipeline.witness_checks.skew_ms IS 'Milliseconds from then to the nearest reading of our page 1; below 0 where ours came first. NULL: one of the two was not read.';
COMMENT ON COLUMN pipeline.witness_checks.witness_ads IS 'Ads that the witness names. NULL: not read.';
COMMENT ON COLUMN pipeline.witness_checks.compared IS 'Ads compared: those of the witness, and those of our book that its list should name. Sum of the next five. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.agreed IS 'Ads with the same price in both. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.price_differs IS 'Ads in both at different prices, unexplained. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.missing IS 'Ads of the witness that our book lacks, unexplained. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.lacking IS 'Ads of our book better than the last of the witness, which it lacks, unexplained. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.explained IS 'Ads that differ and moved since the market''s last good book before, no more of them than can move in the time between the two readings; and ads of ours in quarantine. NULL: unknown.';
COMMENT ON COLUMN pipeline.witness_checks.quote IS 'Price that the witness quotes, in fiat. NULL: not read.';
COMMENT ON COLUMN pipeline.witness_checks.quote_verdict IS 'Where the quote lies in our book: best (equals the best price), listed (equals another), within (between best and worst), outside; unknown: one of the two was not read. What the exchange means by it is not known, so it decides nothing.';
COMMENT ON COLUMN pipeline.witness_checks.quote_rank IS 'Place in our book that the quote would take, from 1: ads with a better price, and one. NULL: as unknown.';
COMMENT ON COLUMN pipeline.witness_checks.details IS 'Every ad that differs: adv_no, result (price_differs, missing, lacking), explained (moved, quarantined or null), rank_witness, price_witness, page and rank_ours, price_ours, price_before (in the last good book before); NULL where there is none.';

-- The lists go with the ads they are compared with; what came of it stays as long as the figures.
INSERT INTO pipeline.partitioned_tables VALUES
    ('pipeline', 'witness_readings', 'facts', 'day', 35, 100),
    ('pipeline', 'witness_checks', 'marts', 'month', 85, 100);

SELECT pipeline.grant_roles();
