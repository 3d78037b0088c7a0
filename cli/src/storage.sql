-- Every table of both schemas with its sizes, partitioned ones summed. Costs a look into the file system
-- for each partition and reads no rows: rows are what the planner takes them to be.
WITH roots AS MATERIALIZED (
    SELECT c.oid AS root, c.relkind, format('%I.%I', n.nspname, c.relname) AS relation
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('warehouse', 'pipeline') AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
), leaves AS (
    SELECT root, root AS leaf FROM roots WHERE relkind <> 'p'
     UNION ALL
    SELECT r.root, t.relid FROM roots r CROSS JOIN LATERAL pg_partition_tree(r.root) t
     WHERE r.relkind = 'p' AND t.isleaf AND t.level > 0
), sized AS (
    SELECT l.root, c.relispartition, pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes,
           CASE WHEN c.reltoastrelid <> 0 THEN pg_total_relation_size(c.reltoastrelid) ELSE 0 END AS toast,
           pg_total_relation_size(c.oid) AS total,
           substring(b.bound FROM 'FROM \(''([0-9-]+)''\)')::date AS first_day,
           substring(b.bound FROM 'TO \(''([0-9-]+)''\)')::date - 1 AS last_day,
           c.reltuples, c.relpages
      FROM leaves l JOIN pg_class c ON c.oid = l.leaf
     CROSS JOIN LATERAL (SELECT CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS bound) b
), estimated AS (
    SELECT s.*,
           -- As the planner does: the density that the last ANALYZE saw, times the pages there are now.
           CASE WHEN heap = 0 THEN 0
                WHEN reltuples < 0 OR relpages = 0 THEN NULL
                ELSE (reltuples::numeric / relpages * (heap / current_setting('block_size')::bigint))::bigint
           END AS rows
      FROM sized s
)
SELECT r.relation, r.relkind = 'p' AS is_partitioned, count(e.root) FILTER (WHERE e.relispartition) AS partitions,
       min(e.first_day) AS oldest_day, max(e.last_day) AS newest_day,
       sum(e.rows)::bigint AS rows, count(*) FILTER (WHERE e.root IS NOT NULL AND e.rows IS NULL) AS not_analyzed,
       coalesce(sum(e.heap), 0)::bigint AS heap_bytes, coalesce(sum(e.indexes), 0)::bigint AS index_bytes,
       coalesce(sum(e.toast), 0)::bigint AS toast_bytes, coalesce(sum(e.total), 0)::bigint AS total_bytes,
       EXISTS (SELECT FROM pipeline.partitioned_tables t
                WHERE t.class = 'facts' AND t.schema_name = 'warehouse'
                  AND r.root = to_regclass(format('%I.%I', t.schema_name, t.table_name))) AS is_fact
  FROM roots r LEFT JOIN estimated e USING (root)
 GROUP BY r.root, r.relation, r.relkind
 ORDER BY total_bytes DESC, r.relation
