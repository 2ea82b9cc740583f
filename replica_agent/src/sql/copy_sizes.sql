-- For each of the tables $1.$2, in their order: bytes on disk and an estimate of the rows, partitions included; pages of
-- the largest partition, 0 where rows are not found by page.
select coalesce(s.bytes, 0)::bigint, coalesce(s.rows, 0)::bigint, coalesce(s.pages, 0)::bigint
  from unnest($1::text[], $2::text[]) with ordinality t(schema_name, table_name, place)
  left join pg_namespace n on n.nspname = t.schema_name
  left join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  left join lateral (
       select sum(pg_table_size(l.oid)) as bytes, sum(greatest(l.reltuples, 0)) as rows,
              case when bool_and(am.amname = 'heap')
                   then max(pg_relation_size(l.oid) / current_setting('block_size')::int) end as pages
         from pg_class l
         left join pg_am am on am.oid = l.relam
        where l.relkind = 'r'
          and (l.oid = c.oid or c.relkind = 'p' and l.oid in (select relid from pg_partition_tree(c.oid)))) s on true
 order by t.place
