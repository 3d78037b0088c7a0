-- What is ordinary is learned from books with refused ads too, and a book that lacks what the exchange declares is told from
-- a market that shrank.
COMMENT ON TABLE pipeline.market_baselines IS 'What is ordinary in each market, learned when a batch closes from its books of which no page was lost and that are not held back. One row a market, so that a close never looks into history.';
COMMENT ON COLUMN warehouse.books.held_reason IS 'Why the book is held back from the latest state although no page was lost: suspect (it fell too far, or together with its neighbours, and is not confirmed yet), we_failed (it fell, and the ads that the exchange declares and it lacks, refused or out of sight, make up for the fall), duplicates, temporal_consistency, referential_integrity (quality checks). NULL: not held.';
COMMENT ON COLUMN warehouse.books.first_total IS 'Total declared by the earliest answer with ads, or by a first page that lists none and declares some. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.last_total IS 'Total declared by the latest answer with ads, or by a first page that lists none and declares some. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.min_total IS 'Smallest total declared by an answer with ads, or by a first page that lists none and declares some. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.max_total IS 'Largest total declared by an answer with ads, or by a first page that lists none and declares some. NULL: no such answer.';
