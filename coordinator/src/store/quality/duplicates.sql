-- Ads that a book shows more than once, as readers see it.
SELECT market_id, 'shown_twice' AS kind, count(*) - count(DISTINCT adv_no) AS found
  FROM quality_ads
 WHERE is_shown AND NOT is_dangling
 GROUP BY market_id
HAVING count(*) > count(DISTINCT adv_no)
