-- The unique indexes of the tables $1.$2 that cover every row by plain columns, the primary key first.
select n.nspname::text, c.relname::text,
       array(select a.attname::text
               from unnest(i.indkey) with ordinality k(attnum, ord)
               join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
              where k.ord <= i.indnkeyatts
              order by k.ord)
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_index i on i.indrelid = c.oid
 where i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
 order by c.oid, i.indisprimary desc, i.indexrelid
