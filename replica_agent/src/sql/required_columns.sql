-- The columns of table $1.$2 that an INSERT has to fill.
select a.attname::text
  from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
   and a.attnotnull and not a.atthasdef and a.attidentity = ''
