-- Deferrable unique and exclusion constraints of the tables $1.$2.
select quote_ident(k.conname), c.oid::regclass::text
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_constraint k on k.conrelid = c.oid and k.condeferrable and k.contype in ('p', 'u', 'x')
 order by 2, 1
