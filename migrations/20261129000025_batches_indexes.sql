-- Batches are kept for ever, and these were looked for by reading all of them: at each turn of the leader those of which nobody
-- was told yet and those with pages of advertisers still out, of which there are hardly any; and those of some days, for
-- the witness, for replays and exports, and by warehouse.batch_at.
CREATE INDEX batches_unannounced ON pipeline.batches (exchange_id, batch_id) WHERE announced_at IS NULL;
CREATE INDEX batches_advertisers_open ON pipeline.batches (exchange_id, batch_id) WHERE advertisers_open > 0;
CREATE INDEX batches_day ON pipeline.batches (day);
