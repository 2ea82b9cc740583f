-- Parts of the tables $1.$2 (with their partitions) that a slave does not get: our triggers, and foreign keys to tables
-- that it does not have, which are those not captured. By catalog and OID; a name for what should be said.
with captured as (
    select coalesce(p.relid::oid, r.relation) as oid
      from pyreplica.replicated_table r left join lateral pg_partition_tree(r.relation) p on true
), wanted as (
    select coalesce(p.relid::oid, c.oid) as oid
      from unnest($1::text[], $2::text[]) t(schema_name, table_name)
      join pg_namespace n on n.nspname = t.schema_name
      join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
      left join lateral pg_partition_tree(c.oid) p on true
)
select 'pg_trigger'::regclass::oid, t.oid, null::text
  from pg_trigger t
  join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = t.tgfoid and d.deptype = 'e'
  join pg_extension e on e.oid = d.refobjid and e.extname = 'pyreplica'
 where t.tgrelid in (select oid from wanted)
union all
select 'pg_constraint'::regclass::oid, k.oid, format('%I of table %s', k.conname, k.conrelid::regclass)
  from pg_constraint k
 where k.contype = 'f' and k.conrelid in (select oid from wanted)
   and k.confrelid not in (select oid from captured)
