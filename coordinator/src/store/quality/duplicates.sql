-- Ads that a book shows more than once, as readers see it: by what is marked on the pages. $1 day, $2 batch.
SELECT market_id, 'shown_twice' AS kind, sum(places - 1)::bigint AS found
  FROM (SELECT market_id, count(*) AS places
          FROM listed_ads l
          JOIN repeated_ads r USING (market_id, adv_no)
         CROSS JOIN LATERAL (SELECT duplicate_positions FROM warehouse.book_pages
                              WHERE day = $1 AND batch_id = $2 AND market_id = l.market_id AND page = l.page
                                AND ordinal = l.ordinal OFFSET 0) p
         WHERE (l.position = ANY (p.duplicate_positions)) IS NOT TRUE
         GROUP BY market_id, adv_no
        HAVING count(*) > 1) t
 GROUP BY market_id
