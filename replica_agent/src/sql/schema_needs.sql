-- What the definitions of the tables $1.$2 (with their partitions) need besides themselves, by catalog and OID: types,
-- functions, schemas, extensions ... Of relations only the tables themselves, their sequences and indexes, and
-- composite types are followed: a foreign key does not bring the table that it refers to.
with recursive wanted as (
    select distinct coalesce(p.relid::oid, c.oid) as oid
      from unnest($1::text[], $2::text[]) t(schema_name, table_name)
      join pg_namespace n on n.nspname = t.schema_name
      join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
      left join lateral pg_partition_tree(c.oid) p on true
), ours as (
    select t.oid from pg_trigger t
      join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = t.tgfoid and d.deptype = 'e'
      join pg_extension e on e.oid = d.refobjid and e.extname = 'pyreplica'
), need(classid, objid) as (
    select 'pg_class'::regclass::oid, oid from wanted
    union
    select x.classid, x.objid from need
      cross join lateral (
           -- what it depends on
           select d.refclassid, d.refobjid
             from pg_depend d
            where d.classid = need.classid and d.objid = need.objid
           union all
           -- what is a part of it: defaults, constraints, triggers, indexes, sequences
           select d.classid, d.objid
             from pg_depend d
            where d.refclassid = need.classid and d.refobjid = need.objid
              and d.deptype in ('a', 'i', 'P', 'S')
              and need.classid in ('pg_class'::regclass, 'pg_type'::regclass, 'pg_constraint'::regclass)
           ) x(classid, objid)
     where (x.classid <> 'pg_class'::regclass
            or x.objid in (select oid from wanted)
            or (select relkind from pg_class where oid = x.objid) in ('S', 'c', 'i', 'I'))
       and not (x.classid = 'pg_trigger'::regclass and x.objid in (select oid from ours))
)
select n.classid, n.objid from need n
 where n.classid <> 'pg_class'::regclass
   and not exists (select from pg_extension e
                    where n.classid = 'pg_extension'::regclass and e.oid = n.objid and e.extname = 'pyreplica')
