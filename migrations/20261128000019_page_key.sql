-- An entry of the key of pages takes 28 bytes instead of 36 without the number of the page: the job that stored a
-- page, which stays in the key, tells it. The indexes of all days are built anew, while who reads or writes pages waits.
ALTER TABLE warehouse.book_pages
    DROP CONSTRAINT book_pages_pkey,
    ADD PRIMARY KEY (day, batch_id, market_id, ordinal);
