-- The ads that a book of the batch lists more than once, of what `listed_ads` has.
CREATE TEMP TABLE repeated_ads ON COMMIT DROP AS
SELECT market_id, adv_no FROM listed_ads WHERE adv_no IS NOT NULL GROUP BY market_id, adv_no HAVING count(*) > 1
