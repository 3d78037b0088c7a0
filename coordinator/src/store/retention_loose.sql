-- Indexes to build anew: of days of facts that ended before $1, the $2 oldest, if they have a megabyte or more. What a
-- building that was cut left is not valid; its index is built once more.
SELECT format('%I.%I', n.nspname, x.relname) AS index, l.left_over
  FROM pipeline.partitioned_tables t
  JOIN pg_inherits i ON i.inhparent = to_regclass(format('%I.%I', t.schema_name, t.table_name))
  JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_index y ON y.indrelid = c.oid AND y.indisvalid
  JOIN pg_class x ON x.oid = y.indexrelid
 CROSS JOIN LATERAL (SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9-]+)''\)')::date - 1 AS last_day) b
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(format('%I.%I', n.nspname, r.relname)), '{}') AS left_over
         FROM pg_index o
         JOIN pg_class r ON r.oid = o.indexrelid
        WHERE o.indrelid = c.oid AND NOT o.indisvalid) l
 WHERE t.class = 'facts' AND t.step = 'day' AND NOT i.inhdetachpending AND b.last_day < $1
   AND pg_relation_size(x.oid) >= 1048576
   AND (NOT coalesce(x.reloptions, '{}') @> '{fillfactor=100}' OR cardinality(l.left_over) > 0)
 ORDER BY b.last_day, index LIMIT $2
