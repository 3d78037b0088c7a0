-- Indexes to build anew, the $2 oldest: of days of facts that ended before $1, of a megabyte or more and not yet full,
-- or of which a building that was cut left a copy that is not valid.
SELECT format('%I.%I', n.nspname, x.relname) AS index, l.left_over
  FROM pipeline.partitioned_tables t
  JOIN pg_inherits i ON i.inhparent = to_regclass(format('%I.%I', t.schema_name, t.table_name))
  JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_index y ON y.indrelid = c.oid AND y.indisvalid
  JOIN pg_class x ON x.oid = y.indexrelid
  JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
 CROSS JOIN LATERAL (SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9-]+)''\)')::date - 1 AS last_day) b
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(format('%I.%I', n.nspname, r.relname)), '{}') AS left_over
         FROM pg_index o
         JOIN pg_class r ON r.oid = o.indexrelid
        -- As REINDEX CONCURRENTLY names its copies: one that an operator makes is his.
        WHERE o.indrelid = c.oid AND NOT o.indisvalid
          AND starts_with(r.relname::text, left(x.relname::text, 50)) AND r.relname ~ '_cc(new|old)[0-9]*$') l
 WHERE t.class = 'facts' AND t.step = 'day' AND NOT i.inhdetachpending AND b.last_day < $1
   AND (cardinality(l.left_over) > 0
        OR pg_relation_size(x.oid) >= 1048576 AND NOT coalesce(x.reloptions, '{}') @> '{fillfactor=100}')
 ORDER BY b.last_day, index LIMIT $2
