-- Ads that a book shows more than once, as readers see it.
SELECT market_id, 'shown_twice' AS kind, sum(places - 1)::bigint AS found
  FROM (SELECT market_id, count(*) AS places
          FROM listed_ads
         WHERE is_shown AND adv_no IS NOT NULL
         GROUP BY market_id, adv_no
        HAVING count(*) > 1) t
 GROUP BY market_id
