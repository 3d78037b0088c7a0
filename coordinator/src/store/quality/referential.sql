-- References of the batch that lead nowhere.
WITH advertisers AS (
    SELECT DISTINCT advertiser_sk FROM quality_ads
), lost_advertisers AS (
    SELECT advertiser_sk FROM advertisers a
     WHERE advertiser_sk IS NOT NULL
       AND NOT EXISTS (SELECT FROM warehouse.dim_advertisers d WHERE d.advertiser_sk = a.advertiser_sk)
), methods AS (
    SELECT DISTINCT unnest(ids) AS id FROM (SELECT DISTINCT payment_method_ids AS ids FROM quality_ads) a
), lost_methods AS (
    SELECT coalesce(array_agg(id), '{}') AS ids FROM methods m
     WHERE NOT EXISTS (SELECT FROM warehouse.dim_payment_methods d WHERE d.payment_method_id = m.id)
), found AS (
    SELECT market_id, 'version' AS kind FROM quality_ads WHERE is_dangling
    UNION ALL
    SELECT market_id, 'version_of_another_market' FROM quality_ads WHERE version_market_id <> market_id
    UNION ALL
    SELECT market_id, 'advertiser' FROM quality_ads JOIN lost_advertisers USING (advertiser_sk)
    UNION ALL
    SELECT market_id, 'payment_method' FROM quality_ads, lost_methods WHERE payment_method_ids && ids
    UNION ALL
    SELECT p.market_id, 'market' FROM (SELECT DISTINCT market_id FROM quality_ads) p
     WHERE NOT EXISTS (SELECT FROM warehouse.dim_markets m WHERE m.market_id = p.market_id)
)
SELECT market_id, kind, count(*) AS found FROM found GROUP BY market_id, kind
