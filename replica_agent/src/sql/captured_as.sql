-- The captured table that relation $1 is, or is a partition of, by its name of now.
select n.nspname::text, c.relname::text, p.trigger_oid
  from pyreplica.captured_part p
       join pg_class c on c.oid = p.relation
       join pg_namespace n on n.oid = c.relnamespace
 where p.relation = $1 or p.relation in (select relid from pg_partition_ancestors($1))
