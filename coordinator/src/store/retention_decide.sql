-- Decides which partitions are dropped: those that end before $1 (facts), $2 (marts) or $4 (raw), the $3
-- oldest. Days of the raw archive from $5 on are not too old, there is no room for them.
-- A decision that is no longer right, because more days are to be kept, is forgotten while its partition
-- is as it was.
WITH partitions AS MATERIALIZED (
    SELECT t.schema_name, t.table_name, t.drop_order, c.oid, c.relname::text AS partition_name, c.reltuples,
           i.inhdetachpending,
           substring(b.bound FROM 'FROM \(''([0-9-]+)''\)')::date AS first_day,
           substring(b.bound FROM 'TO \(''([0-9-]+)''\)')::date - 1 AS last_day,
           CASE t.class WHEN 'facts' THEN $1::date WHEN 'raw' THEN $4::date ELSE $2::date END AS first_kept,
           CASE WHEN t.class = 'raw' AND substring(b.bound FROM 'FROM \(''([0-9-]+)''\)')::date >= $5::date THEN 'budget' ELSE 'age' END AS reason
      FROM pipeline.partitioned_tables t
      JOIN pg_inherits i ON i.inhparent = to_regclass(format('%I.%I', t.schema_name, t.table_name))
      JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
), forgotten AS (
    DELETE FROM pipeline.dropped_partitions d
     USING partitions p
     WHERE d.dropped_at IS NULL AND p.schema_name = d.schema_name AND p.partition_name = d.partition_name
       AND NOT p.inhdetachpending AND p.last_day >= p.first_kept
)
INSERT INTO pipeline.dropped_partitions AS d
       (schema_name, partition_name, table_name, first_day, last_day, bytes, estimated_rows, decided_at, reason)
SELECT schema_name, partition_name, table_name, first_day, last_day, pg_total_relation_size(oid),
       CASE WHEN reltuples >= 0 THEN reltuples::bigint END, now(), reason
  FROM partitions
 WHERE last_day < first_kept
 ORDER BY last_day, drop_order LIMIT $3
    -- One that was made again after it was dropped is dropped again.
    ON CONFLICT (schema_name, partition_name) DO UPDATE
   SET table_name = EXCLUDED.table_name, bytes = EXCLUDED.bytes, estimated_rows = EXCLUDED.estimated_rows,
       decided_at = EXCLUDED.decided_at, dropped_at = NULL, reason = EXCLUDED.reason
 WHERE d.dropped_at IS NOT NULL
