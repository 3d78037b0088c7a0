-- The ads of the complete books before that the book itself does not list. batch_id is that of the book that is
-- closing.
CREATE TEMP TABLE ads_before (
    batch_id integer, market_id integer, adv_no text, advertiser_id integer, is_merchant boolean,
    price numeric, available_amount numeric
) ON COMMIT DROP
