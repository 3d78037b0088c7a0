-- An entry of the key of pages takes 28 bytes instead of 36 without the number of the page: the job that stored a
-- page, which stays in the key, tells it.
ALTER TABLE warehouse.book_pages
    DROP CONSTRAINT book_pages_pkey,
    ADD PRIMARY KEY (day, batch_id, market_id, ordinal);

-- Each batch adds to the rows of its day, which stand together among those of a month.
CREATE INDEX mart_advertiser_days_day ON warehouse.mart_advertiser_days USING brin (day) WITH (autosummarize = on);
