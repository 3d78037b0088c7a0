-- Shapes of answers that differ from the known ones, and rules of validation that ads break without being
-- refused.

CREATE TABLE pipeline.api_shapes (
    finding_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id    smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    call           text NOT NULL,
    path           text NOT NULL,
    change         text NOT NULL CHECK (change IN ('new', 'missing', 'retyped', 'value')),
    type           text NOT NULL,
    value          text NOT NULL,
    sample         bytea NOT NULL,
    first_batch_id integer NOT NULL,
    first_seen_at  timestamptz NOT NULL,
    last_batch_id  integer NOT NULL,
    last_seen_at   timestamptz NOT NULL,
    answers        bigint NOT NULL,
    state          text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'accepted')),
    accepted_at    timestamptz,
    UNIQUE (exchange_id, call, path, change, type, value),
    CHECK ((state = 'accepted') = (accepted_at IS NOT NULL))
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.api_shapes IS 'How answers differ from the shapes that are known: one row per finding. Known is what the captures of the project show, and what an operator accepted (p2p shapes accept).';
COMMENT ON COLUMN pipeline.api_shapes.finding_id IS 'Key.';
COMMENT ON COLUMN pipeline.api_shapes.exchange_id IS 'Exchange.';
COMMENT ON COLUMN pipeline.api_shapes.call IS 'Call of the API, as jobs.kind.';
COMMENT ON COLUMN pipeline.api_shapes.path IS 'Path in the answer, for example data[].adv.price; a point is the whole answer.';
COMMENT ON COLUMN pipeline.api_shapes.change IS 'new: the path is not known; what is within it is new with it. missing: a field lacks that is always there. retyped: another type stands there. value: a field with few values has another one.';
COMMENT ON COLUMN pipeline.api_shapes.type IS 'Type found: null, boolean, number, text, list, object, or invalid for what is no JSON. Empty: missing.';
COMMENT ON COLUMN pipeline.api_shapes.value IS 'Value found, as it is written in the answer. Empty: the finding is not about a value.';
COMMENT ON COLUMN pipeline.api_shapes.sample IS 'The first 300 bytes of what stood there when it was first seen; of a missing field, of an object of the answer that should have it.';
COMMENT ON COLUMN pipeline.api_shapes.first_batch_id IS 'Batch that saw it first.';
COMMENT ON COLUMN pipeline.api_shapes.first_seen_at IS 'When the first answer with it had arrived.';
COMMENT ON COLUMN pipeline.api_shapes.last_batch_id IS 'Batch that saw it last, or last before it was accepted.';
COMMENT ON COLUMN pipeline.api_shapes.last_seen_at IS 'When the last answer with it had arrived, or the last before it was accepted.';
COMMENT ON COLUMN pipeline.api_shapes.answers IS 'Answers with it that ended a job. Those after it was accepted are not all counted.';
COMMENT ON COLUMN pipeline.api_shapes.state IS 'new: nobody accepted it, workers alert. accepted: it is known from then on.';
COMMENT ON COLUMN pipeline.api_shapes.accepted_at IS 'When it was accepted. NULL: not yet.';

ALTER TABLE warehouse.offer_versions ADD COLUMN warnings text[];
COMMENT ON COLUMN warehouse.offer_versions.warnings IS 'Rules that the ad breaks without being refused, sorted: limits_crossed, dynamic_max_above_max, tradable_above_available, price_scale, rate_out_of_range, no_payment_methods, unreadable_field (a field held what can''t be read and is NULL for that reason), market_not_told and unknown_side (taken from the request), name_not_told. NULL: none, or stored before this was recorded.';

ALTER TABLE pipeline.jobs ADD COLUMN warnings jsonb;
COMMENT ON COLUMN pipeline.jobs.warnings IS 'Rules that ads of the page break without being refused, each with how often (offer_versions.warnings), and duplicate_in_page: ads that stand twice at ordinary places of the page. NULL: none.';

CREATE OR REPLACE VIEW warehouse.fact_offers AS
SELECT warehouse.offer_id(p.day, v.id) AS offer_id,
       v.adv_no AS offer_external_id,
       p.day,
       p.batch_id,
       p.fetched_at AS extraction_timestamp,
       m.exchange_id,
       p.market_id,
       m.fiat_id,
       m.crypto_id,
       m.trade_type,
       CASE m.trade_type WHEN 'BUY' THEN 'SELL' ELSE 'BUY' END AS advertiser_side,
       p.page,
       (l.position = p.promoted_position) IS TRUE AS is_promoted,
       CASE WHEN l.position = p.promoted_position THEN NULL
            ELSE (p.page - 1) * 20 + l.position
                 - CASE WHEN l.position > p.promoted_position THEN 1 ELSE 0 END
       END::integer AS rank,
       v.price,
       v.available_amount,
       v.tradable_quantity,
       v.min_limit,
       v.max_limit,
       v.dynamic_max_limit,
       v.min_quantity,
       v.max_quantity,
       v.dynamic_max_quantity,
       v.initial_amount,
       v.amount_after_editing,
       v.commission_rate,
       v.taker_commission_rate,
       v.min_taker_fee,
       v.pay_time_limit_minutes,
       v.payment_method_ids,
       v.classify,
       v.is_tradable,
       v.is_safe_payment,
       v.taker_kyc_required,
       v.asset_scale,
       v.fiat_scale,
       v.price_scale,
       v.auto_reply,
       v.terms,
       v.price_type,
       v.price_floating_ratio,
       v.rate_floating_ratio,
       v.buyer_kyc_limit,
       v.buyer_registration_days,
       v.buyer_btc_position,
       v.advertiser_sk,
       p.active_minutes[l.position] AS advertiser_active_minutes,
       v.first_seen_at,
       b.verdict AS book_verdict,
       v.voucher_template,
       v.system_labels,
       v.taker_conditions,
       v.adv_status,
       v.ad_created_at,
       v.ad_updated_at,
       p.privilege_types[l.position] AS privilege_type,
       v.warnings
  FROM warehouse.book_pages p
  JOIN warehouse.books b ON b.day = p.day AND b.batch_id = p.batch_id AND b.market_id = p.market_id
  JOIN warehouse.dim_markets m ON m.market_id = p.market_id
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
 WHERE p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions);
COMMENT ON COLUMN warehouse.fact_offers.warnings IS 'Rules that the ad breaks without being refused, as in offer_versions. NULL: none.';

SELECT pipeline.grant_roles();
