-- Relations, columns and functions of schema $1 with their comments; partitions are left out.
SELECT * FROM (
SELECT 'relation' AS what, c.relname::text AS name,
       CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
            WHEN 'p' THEN 'table, partitioned by ' || pg_get_partkeydef(c.oid) ELSE 'table' END AS kind,
       NULL AS column_name, false AS is_nullable,
       obj_description(c.oid, 'pg_class') AS comment,
       (SELECT string_agg(a.attname, ', ' ORDER BY array_position(i.indkey::int2[], a.attnum))
          FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = c.oid AND i.indisprimary) AS key,
       0 AS position
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
 UNION ALL
SELECT 'column', c.relname::text, format_type(a.atttypid, a.atttypmod), a.attname::text,
       NOT a.attnotnull AND c.relkind NOT IN ('v', 'm'), col_description(c.oid, a.attnum), NULL, a.attnum
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
 UNION ALL
SELECT 'function', p.proname || '(' || pg_get_function_arguments(p.oid) || ')', pg_get_function_result(p.oid), NULL, false,
       obj_description(p.oid, 'pg_proc'), NULL, 0
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = $1 AND p.prokind IN ('f', 'p')
) entry
 ORDER BY what = 'function', name, position
