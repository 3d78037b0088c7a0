-- The same with what certificates, marts and checks need of each ad, in the order of prices, in which marts take
-- them. NULL in what is of the version: there is none of this id. advertiser_id NULL: nor of its advertiser. $1 day.
CREATE TEMP TABLE listed_ads ON COMMIT DROP AS
SELECT l.fetched_at, l.first_seen_at, l.batch_id, l.market_id, l.ordinal, l.id, l.version_market_id,
       a.advertiser_id, l.page, l.position, l.is_last, l.is_promoted, l.is_shown, a.is_merchant,
       l.price, l.available_amount, l.price * l.available_amount AS worth, l.adv_no, l.payment_method_ids
  -- First, so that the planner knows for how many ads advertisers are looked up: of the versions of a day that has just
  -- begun it takes a few for all.
  FROM (SELECT l.*, v.first_seen_at, v.market_id AS version_market_id, v.advertiser_sk, v.price, v.available_amount,
               v.adv_no, v.payment_method_ids
          FROM listed_ids l
          LEFT JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
        OFFSET 0) l
  LEFT JOIN warehouse.dim_advertisers a ON a.advertiser_sk = l.advertiser_sk
 ORDER BY l.batch_id, l.market_id, l.price
