-- For each of the tables $1.$2, in their order: bytes on disk and an estimate of the rows, partitions included.
select coalesce(s.bytes, 0)::bigint, coalesce(s.rows, 0)::bigint
  from unnest($1::text[], $2::text[]) with ordinality t(schema_name, table_name, place)
  left join pg_namespace n on n.nspname = t.schema_name
  left join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  left join lateral (
       select sum(pg_table_size(l.oid)) as bytes, sum(greatest(l.reltuples, 0)) as rows
         from pg_class l
        where l.relkind = 'r'
          and (l.oid = c.oid or c.relkind = 'p' and l.oid in (select relid from pg_partition_tree(c.oid)))) s on true
 order by t.place
