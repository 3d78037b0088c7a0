-- References of the batch that lead nowhere. $1 day, $2 batch.
WITH methods AS (
    SELECT DISTINCT unnest(ids) AS id FROM (SELECT DISTINCT payment_method_ids AS ids FROM listed_ads) a
), lost_methods AS (
    SELECT coalesce(array_agg(id), '{}') AS ids FROM methods m
     WHERE NOT EXISTS (SELECT FROM warehouse.dim_payment_methods d WHERE d.payment_method_id = m.id)
), counted AS (
    SELECT market_id,
           count(*) FILTER (WHERE adv_no IS NULL) AS versions,
           count(*) FILTER (WHERE version_market_id <> market_id) AS versions_of_another_market,
           count(*) FILTER (WHERE adv_no IS NOT NULL AND advertiser_id IS NULL) AS advertisers,
           count(*) FILTER (WHERE payment_method_ids && ids) AS payment_methods
      FROM listed_ads, lost_methods
     WHERE adv_no IS NULL OR version_market_id <> market_id OR advertiser_id IS NULL
        OR cardinality(ids) > 0 AND payment_method_ids && ids
     GROUP BY market_id
)
SELECT market_id, f.kind, f.found
  FROM counted c
 CROSS JOIN LATERAL (VALUES ('version', c.versions), ('version_of_another_market', c.versions_of_another_market),
                            ('advertiser', c.advertisers), ('payment_method', c.payment_methods)) AS f (kind, found)
 WHERE f.found > 0
UNION ALL
SELECT market_id, 'market', 1
  FROM (SELECT DISTINCT market_id FROM warehouse.book_pages WHERE day = $1 AND batch_id = $2) c
 WHERE NOT EXISTS (SELECT FROM warehouse.dim_markets m WHERE m.market_id = c.market_id)
