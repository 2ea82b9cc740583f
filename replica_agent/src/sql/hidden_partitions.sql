-- Partitions of the tables $1.$2 that the session's role may not read by themselves, each behind its table.
select t.schema_name, t.table_name, pn.nspname::text, pc.relname::text
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
 cross join pg_partition_tree(c.oid) p
  join pg_class pc on pc.oid = p.relid and pc.oid <> c.oid
  join pg_namespace pn on pn.oid = pc.relnamespace
 where not (has_table_privilege(pc.oid, 'SELECT') and has_schema_privilege(pn.oid, 'USAGE'))
 order by t.schema_name, t.table_name, pn.nspname collate "C", pc.relname collate "C"
