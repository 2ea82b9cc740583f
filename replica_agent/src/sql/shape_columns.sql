-- The columns of the tables $1.$2.
select n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attgenerated <> '', a.atthasdef or a.attidentity <> ''
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 order by c.oid, a.attnum
