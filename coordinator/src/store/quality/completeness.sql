-- Pages and ads of each book, read and expected; books left out for want of budget are none. $1 day, $2 batch.
SELECT k.market_id, k.pages_read, k.pages_lost, k.distinct_ads AS ads,
       k.distinct_ads + k.refused_ads
         -- Where no answer told a total, the last one that did.
         + coalesce(k.estimated_missed, greatest(coalesce(c.last_total, 0) - k.distinct_ads - k.refused_ads, 0)) AS ads_expected
  FROM warehouse.books k
  LEFT JOIN pipeline.catalog c USING (market_id)
 WHERE k.day = $1 AND k.batch_id = $2 AND k.verdict <> 'shed'
