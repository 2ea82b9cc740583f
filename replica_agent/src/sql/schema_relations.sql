-- The tables $1.$2 with their partitions, and the sequences of their defaults, as patterns for pg_dump.
with wanted as (
    select coalesce(p.relid::oid, c.oid) as oid
      from unnest($1::text[], $2::text[]) t(schema_name, table_name)
      join pg_namespace n on n.nspname = t.schema_name
      join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
      left join lateral pg_partition_tree(c.oid) p on true
)
select distinct '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid in (select oid from wanted)
    or c.relkind = 'S'
   and c.oid in (select d.refobjid
                   from pg_attrdef a
                   join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid
                                   and d.refclassid = 'pg_class'::regclass
                  where a.adrelid in (select oid from wanted))
